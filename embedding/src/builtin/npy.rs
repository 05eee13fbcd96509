//! NumPy's array files (format 1.0 and 2.0), as far as the weights need them: C order, `u1` or little-endian `f4`.

const MAGIC: &[u8] = b"\x93NUMPY";

/// The data of an array of exactly this type and shape.
fn data<'a>(file: &'a [u8], kind: &str, shape: &[usize]) -> Result<&'a [u8], String> {
    let bad = |what: &str| format!("an array file {what}");
    let rest = file.strip_prefix(MAGIC).ok_or_else(|| bad("does not begin as one"))?;
    let (length_bytes, header_from) = match rest.first() {
        Some(1) => (2, 4),
        Some(2) => (4, 6),
        _ => return Err(bad("is of an unknown version")),
    };
    let length = rest.get(2..2 + length_bytes).ok_or_else(|| bad("is cut off"))?;
    let length = length.iter().rev().fold(0_usize, |n, byte| n << 8 | usize::from(*byte));
    let end = header_from + length;
    let header = rest.get(header_from..end).and_then(|h| std::str::from_utf8(h).ok()).ok_or_else(|| bad("is cut off"))?;
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let sizes = if let [one] = sizes.as_slice() { format!("({one},)") } else { format!("({})", sizes.join(", ")) };
    for wanted in [format!("'descr': '{kind}'"), "'fortran_order': False".to_owned(), format!("'shape': {sizes}")] {
        if !header.contains(&wanted) {
            return Err(bad(&format!("lacks {wanted}")));
        }
    }
    Ok(&rest[end..])
}

/// An array of bytes.
pub(crate) fn bytes<'a>(file: &'a [u8], shape: &[usize]) -> Result<&'a [u8], String> {
    let values = data(file, "|u1", shape)?;
    if values.len() == shape.iter().product::<usize>() { Ok(values) } else { Err("an array has another length".to_owned()) }
}

/// An array of floats.
pub(crate) fn floats(file: &[u8], shape: &[usize]) -> Result<Vec<f32>, String> {
    let (values, rest) = data(file, "<f4", shape)?.as_chunks();
    if rest.is_empty() && values.len() == shape.iter().product::<usize>() {
        Ok(values.iter().map(|v| f32::from_le_bytes(*v)).collect())
    } else {
        Err("an array has another length".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, values: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[1, 0]);
        out.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(values);
        out
    }

    #[test]
    fn only_the_expected_array_is_read() {
        let good = file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0, 0, 128, 63, 0, 0, 0, 192]);
        assert_eq!(floats(&good, &[2]).unwrap(), [1.0, -2.0]);
        assert!(floats(&good, &[3]).is_err() && bytes(&good, &[8]).is_err() && floats(&good[..good.len() - 1], &[2]).is_err());
        for end in 0..good.len() {
            assert!(floats(&good[..end], &[2]).is_err(), "{end}");
        }
        let table = file("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }", &[1, 2, 3, 4, 5, 6]);
        assert_eq!(bytes(&table, &[2, 3]).unwrap(), [1, 2, 3, 4, 5, 6]);
        let turned = file("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }", &[1, 2, 3, 4, 5, 6]);
        assert!(bytes(&turned, &[2, 3]).is_err());
    }
}
