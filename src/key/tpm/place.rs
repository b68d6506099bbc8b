//! How a TPM describes itself.

use super::context::Visit;
use super::error::Failure;
use crate::key::Place;
use crate::text::Printable;

// TPM_PT (TPM 2.0 Part 2 §6.13).
const MANUFACTURER: u32 = 0x105;
const VENDOR_STRINGS: [u32; 4] = [0x106, 0x107, 0x108, 0x109];

/// Maker and model. A TPM has no label and no serial number.
pub(super) fn of(visit: &mut Visit<'_>) -> Result<Place, Failure> {
    let mut text = |tags: &[u32]| -> Result<String, Failure> {
        let mut letters = Vec::new();
        for tag in tags {
            letters.extend(visit.property(*tag)?.unwrap_or_default().to_be_bytes().into_iter().filter(|b| *b != 0));
        }
        Ok(String::from_utf8_lossy(&letters).trim().to_owned())
    };
    let maker = text(&[MANUFACTURER])?;
    let model = text(&VENDOR_STRINGS)?;
    // What swtpm and the reference simulator call themselves: `SW   TPM`, `xCG fTPM` is Microsoft's.
    let software = model.split_whitespace().collect::<Vec<_>>() == ["SW", "TPM"] || model == "xCG fTPM";
    Ok(Place { label: Printable::new(&maker), serial: Printable::default(), model: Printable::new(&model), software })
}
