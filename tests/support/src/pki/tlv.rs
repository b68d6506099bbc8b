//! DER as bytes: for structures that no library writes, because they are old-fashioned or forged.

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const CONTEXT_0: u8 = 0xa0;
pub(crate) const CONTEXT_1: u8 = 0xa1;

/// One element; the parts are its content.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = vec![tag];
    if length < 0x80 {
        der.push(length as u8);
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        der.push(0x80 | bytes.len() as u8);
        der.extend(bytes);
    }
    parts.iter().for_each(|part| der.extend_from_slice(part));
    der
}

/// The content of the first element of `der`, and what comes after that element.
pub(crate) fn open(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, whole) = measure(der)?;
    Some((der.get(content..whole)?, &der[whole..]))
}

/// The elements that `content` is made of, each with its head.
pub(crate) fn elements(mut content: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !content.is_empty() {
        let (_, whole) = measure(content)?;
        found.push(content.get(..whole)?);
        content = &content[whole..];
    }
    Some(found)
}

/// Where the content of the first element begins, and where it ends.
fn measure(der: &[u8]) -> Option<(usize, usize)> {
    let first = usize::from(*der.get(1)?);
    let (begin, length) = if first < 0x80 {
        (2, first)
    } else {
        let bytes = der.get(2..2 + (first & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        (2 + bytes.len(), bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    };
    let end = begin + length;
    (end <= der.len()).then_some((begin, end))
}
