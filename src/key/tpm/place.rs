//! How a TPM describes itself.

use tss_esapi::constants::PropertyTag;

use super::context::Visit;
use super::error::Failure;
use crate::key::Place;
use crate::text::Printable;

/// Maker and model, from the fixed properties (TPM 2.0 Part 2 §6.13). A TPM has no label and no serial number.
pub(super) fn of(visit: &mut Visit<'_>) -> Result<Place, Failure> {
    let mut text = |tags: &[PropertyTag]| -> Result<String, Failure> {
        let mut letters = Vec::new();
        for tag in tags {
            letters.extend(visit.property(*tag)?.unwrap_or_default().to_be_bytes().into_iter().filter(|b| *b != 0));
        }
        Ok(String::from_utf8_lossy(&letters).trim().to_owned())
    };
    let maker = text(&[PropertyTag::Manufacturer])?;
    let model = text(&[PropertyTag::VendorString1, PropertyTag::VendorString2, PropertyTag::VendorString3, PropertyTag::VendorString4])?;
    // What swtpm and the reference simulator call themselves: `SW   TPM`, `xCG fTPM` is Microsoft's.
    let software = model.split_whitespace().collect::<Vec<_>>() == ["SW", "TPM"] || model == "xCG fTPM";
    Ok(Place { label: Printable::new(&maker), serial: Printable::default(), model: Printable::new(&model), software })
}
