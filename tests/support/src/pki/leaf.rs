//! What an end-entity certificate says, right or wrong, before an authority signs it.

use super::{DAY, unix_now};
use der::DateTime;
use der::asn1::ObjectIdentifier;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use std::time::Duration;
use x509_cert::name::Name;

/// A certificate to be signed. The methods by value each spoil one thing.
#[derive(Clone, Debug)]
pub struct Leaf {
    params: CertificateParams,
}

impl Leaf {
    /// A server certificate for DNS names and IP addresses; the first is also its CN. One year.
    pub fn server(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone()).expect("names of a test server are IA5");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("", String::as_str));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Self { params }.valid(unix_now() - DAY, unix_now() + 365 * DAY)
    }

    /// A network-issued client certificate (enrollment-protocol.md §5): no basicConstraints, from one minute ago to one
    /// calendar year ahead, and of `subject` only the fields that Go has names for. Of several values of one kind the
    /// last one stays.
    pub fn client(subject: &Name) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = named_fields(subject);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DataEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Self { params }.valid(unix_now() - 60, a_calendar_year_after(unix_now()))
    }

    /// The same with the subject `CN=<common_name>`.
    pub fn client_named(common_name: &str) -> Self {
        let mut leaf = Self::client(&Name::default());
        leaf.params.distinguished_name.push(DnType::CommonName, common_name);
        leaf
    }

    /// Adds a URI to the subject alternative names.
    pub fn uri(mut self, uri: &str) -> Self {
        self.params.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI is IA5")));
        self
    }

    /// Ended yesterday.
    pub fn expired(self) -> Self {
        self.valid(unix_now() - 30 * DAY, unix_now() - DAY)
    }

    /// Begins tomorrow.
    pub fn not_yet_valid(self) -> Self {
        self.valid(unix_now() + DAY, unix_now() + 30 * DAY)
    }

    /// With CA:TRUE.
    pub fn ca(mut self) -> Self {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// Its extended key usage is serverAuth alone.
    pub fn without_client_auth(mut self) -> Self {
        self.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// Validity, in seconds since the Unix epoch.
    pub fn valid(mut self, not_before: u64, not_after: u64) -> Self {
        set_validity(&mut self.params, not_before, not_after);
        self
    }

    pub(super) fn params(&self) -> &CertificateParams {
        &self.params
    }
}

/// Keeps C, ST, L, street, postalCode, O, OU, CN and serialNumber, in the order that controllers write (run against
/// 1.6.20 and 2.0.3); the rest they drop.
fn named_fields(subject: &Name) -> DistinguishedName {
    let fields = [
        ("2.5.4.6", DnType::CountryName),
        ("2.5.4.8", DnType::StateOrProvinceName),
        ("2.5.4.7", DnType::LocalityName),
        ("2.5.4.9", DnType::CustomDnType(vec![2, 5, 4, 9])),
        ("2.5.4.17", DnType::CustomDnType(vec![2, 5, 4, 17])),
        ("2.5.4.10", DnType::OrganizationName),
        ("2.5.4.11", DnType::OrganizationalUnitName),
        ("2.5.4.3", DnType::CommonName),
        ("2.5.4.5", DnType::CustomDnType(vec![2, 5, 4, 5])),
    ];
    let mut kept = DistinguishedName::new();
    for (oid, name) in fields {
        let oid = ObjectIdentifier::new_unwrap(oid);
        let values = subject.iter_rdn().flat_map(|rdn| rdn.iter()).filter(|attribute| attribute.oid == oid);
        if let Some(value) = values.last().and_then(|attribute| std::str::from_utf8(attribute.value.value()).ok()) {
            let printable = value.try_into().map(DnValue::PrintableString);
            kept.push(name, printable.unwrap_or_else(|_| DnValue::Utf8String(value.into())));
        }
    }
    kept
}

/// As Go's `AddDate(1, 0, 0)`: 29 February becomes 1 March.
fn a_calendar_year_after(unix: u64) -> u64 {
    let now = DateTime::from_unix_duration(Duration::from_secs(unix)).expect("the clock stands before 9999");
    let (month, day) = if now.month() == 2 && now.day() == 29 { (3, 1) } else { (now.month(), now.day()) };
    DateTime::new(now.year() + 1, month, day, now.hour(), now.minutes(), now.seconds())
        .expect("every other day exists next year too")
        .unix_duration()
        .as_secs()
}

/// Validity, in seconds since the Unix epoch. (rcgen's date type is of the crate `time`, which needs no naming here.)
pub(super) fn set_validity(params: &mut CertificateParams, not_before: u64, not_after: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
}
