//! Arrays as bytes: the NPY format, in which numpy's `save` and `load` speak, one array after the other.
//!
//! ```text
//! "\x93NUMPY" | major 1, 2 or 3 | minor 0 | header length, u16 (major 1) or u32, little-endian | header | elements
//! header: {'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }   padded with spaces, a line feed at its end
//! ```
//!
//! The format is NumPy Enhancement Proposal 1 (`numpy.lib.format`). Elements are little-endian `<f4`, `<f8`, `<c8` (two f4) and
//! `<c16` (two f8), the last axis fastest. Written is always version 1.0.

use num_complex::Complex64;

use crate::array::{Array, Data, ELEMENTS_MAX, Precision, elements};
use crate::{Budget, TransformError};

const MAGIC: &[u8] = b"\x93NUMPY";

/// The longest header that is read, in bytes. numpy writes 118 for everything with up to [`crate::AXES_MAX`] axes.
const HEADER_BYTES_MAX: usize = 4096;

/// The most arrays of one input.
pub const ARRAYS_MAX: usize = 4;

/// Reads all arrays, one after the other, until the bytes end.
///
/// # Errors
/// [`TransformError::BadInput`] says which array is wrong and how; [`TransformError::TooLarge`] and
/// [`TransformError::MemoryLimit`] come before any memory is taken for elements.
pub fn read_arrays(mut bytes: &[u8], budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
    let mut arrays = Vec::new();
    while !bytes.is_empty() {
        if arrays.len() == ARRAYS_MAX {
            return Err(TransformError::input(format!("there are more than {ARRAYS_MAX} arrays")));
        }
        let (array, rest) = read_array(bytes, arrays.len(), budget)?;
        arrays.push(array);
        bytes = rest;
    }
    Ok(arrays)
}

/// Writes arrays, one after the other.
///
/// # Errors
/// [`TransformError::MemoryLimit`].
pub fn write_arrays(arrays: &[Array], budget: &Budget<'_>) -> Result<Vec<u8>, TransformError> {
    let size = |array: &Array| array.len() * Element::of(array).bytes() + 128 + MAGIC.len();
    let total = arrays.iter().map(size).sum();
    budget.afford(total, 1)?;
    let mut out = Vec::with_capacity(total);
    for array in arrays {
        write_array(array, &mut out);
    }
    Ok(out)
}

/// The type of an element as the format names it.
#[derive(Clone, Copy)]
struct Element {
    complex: bool,
    precision: Precision,
}

impl Element {
    fn of(array: &Array) -> Self {
        Self { complex: matches!(array.data(), Data::Complex(_)), precision: array.precision() }
    }

    fn named(name: &str) -> Option<Self> {
        let (complex, precision) = match name {
            "<f4" => (false, Precision::Single),
            "<f8" => (false, Precision::Double),
            "<c8" => (true, Precision::Single),
            "<c16" => (true, Precision::Double),
            _ => return None,
        };
        Some(Self { complex, precision })
    }

    fn name(self) -> &'static str {
        match (self.complex, self.precision) {
            (false, Precision::Single) => "<f4",
            (false, Precision::Double) => "<f8",
            (true, Precision::Single) => "<c8",
            (true, Precision::Double) => "<c16",
        }
    }

    fn bytes(self) -> usize {
        let part = match self.precision {
            Precision::Single => 4,
            Precision::Double => 8,
        };
        if self.complex { 2 * part } else { part }
    }
}

struct Header {
    element: Element,
    shape: Vec<usize>,
}

fn read_array<'a>(bytes: &'a [u8], index: usize, budget: &Budget<'_>) -> Result<(Array, &'a [u8]), TransformError> {
    let bad = |detail: &str| TransformError::input(format!("array {index}: {detail}"));
    let (header, body) = split_header(bytes).map_err(bad)?;
    let header = parse_header(header).map_err(|detail| bad(&detail))?;
    let count = elements(&header.shape)?;
    // In memory every element is a double.
    budget.afford(count, if header.element.complex { 16 } else { 8 })?;
    let size = count * header.element.bytes();
    let Some((body, rest)) = body.split_at_checked(size) else {
        return Err(bad(&format!("its header announces {size} bytes of elements but {} are there", body.len())));
    };
    let numbers = decode(body, header.element.precision);
    let data = if header.element.complex {
        let pairs = numbers.chunks_exact(2).map(|pair| Complex64::new(pair[0], pair[1]));
        Data::Complex(pairs.collect())
    } else {
        Data::Real(numbers)
    };
    let array = Array::new(header.shape, data)?.with_precision(header.element.precision);
    Ok((array, rest))
}

fn decode(body: &[u8], precision: Precision) -> Vec<f64> {
    match precision {
        Precision::Single => {
            let (parts, _) = body.as_chunks();
            parts.iter().map(|part| f64::from(f32::from_le_bytes(*part))).collect()
        }
        Precision::Double => {
            let (parts, _) = body.as_chunks();
            parts.iter().map(|part| f64::from_le_bytes(*part)).collect()
        }
    }
}

/// Splits what follows the magic and the lengths into header and the rest.
fn split_header(bytes: &[u8]) -> Result<(&str, &[u8]), &'static str> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin like a NPY file (numpy.save writes one)")?;
    let (&[major, minor], rest) = rest.split_first_chunk().ok_or("it ends within its header")?;
    let (length, rest) = match (major, minor) {
        (1, 0) => {
            let (length, rest) = rest.split_first_chunk().ok_or("it ends within its header")?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        (2 | 3, 0) => {
            let (length, rest) = rest.split_first_chunk().ok_or("it ends within its header")?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        _ => return Err("its version of the NPY format is not 1.0, 2.0 or 3.0"),
    };
    if length > HEADER_BYTES_MAX {
        return Err("its header is longer than 4096 bytes");
    }
    let (header, body) = rest.split_at_checked(length).ok_or("it ends within its header")?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text")?;
    Ok((header, body))
}

/// Reads the header, a Python dictionary literal of exactly three keys.
fn parse_header(text: &str) -> Result<Header, String> {
    let broken = || "its header is not the dictionary that numpy writes".to_owned();
    let body = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(broken)?;
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    let mut rest = body.trim_start();
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or_else(broken)?;
        let after = after.trim_start().strip_prefix(':').ok_or_else(broken)?.trim_start();
        let after = match key {
            "descr" if descr.is_none() => {
                let (value, after) = quoted(after).ok_or("its elements are records: give plain numbers")?;
                descr = Some(value);
                after
            }
            "fortran_order" if fortran.is_none() => {
                let (value, after) = flag(after).ok_or_else(broken)?;
                fortran = Some(value);
                after
            }
            "shape" if shape.is_none() => {
                let (value, after) = tuple(after).ok_or_else(broken)?;
                shape = Some(value);
                after
            }
            _ => return Err(broken()),
        };
        rest = after.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(rest) => rest.trim_start(),
            None if rest.is_empty() => rest,
            None => return Err(broken()),
        };
    }
    let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
        return Err(broken());
    };
    let element = Element::named(descr).ok_or_else(|| {
        let shown: String = descr.chars().take(16).collect();
        format!("its elements are `{shown}`: use float32, float64, complex64 or complex128, little-endian")
    })?;
    if fortran && shape.len() > 1 {
        return Err("its first axis runs fastest: save numpy.ascontiguousarray(…) instead".to_owned());
    }
    Ok(Header { element, shape })
}

/// A string in quotes, without escapes, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|first| matches!(first, '\'' | '"'))?;
    text[1..].split_once(quote)
}

fn flag(text: &str) -> Option<(bool, &str)> {
    text.strip_prefix("False").map(|rest| (false, rest)).or_else(|| text.strip_prefix("True").map(|rest| (true, rest)))
}

fn tuple(text: &str) -> Option<(Vec<usize>, &str)> {
    let (inside, rest) = text.strip_prefix('(')?.split_once(')')?;
    let mut axes = Vec::new();
    let mut parts = inside.split(',').map(str::trim).peekable();
    while let Some(part) = parts.next() {
        // `(3,)` and `()` end with an empty part.
        if part.is_empty() && parts.peek().is_none() {
            break;
        }
        if !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        axes.push(part.parse().ok().filter(|&axis: &usize| axis <= 64 * ELEMENTS_MAX)?);
    }
    Some((axes, rest))
}

fn write_array(array: &Array, out: &mut Vec<u8>) {
    let element = Element::of(array);
    let axes: Vec<String> = array.shape().iter().map(usize::to_string).collect();
    // A tuple of one has a comma.
    let shape = if let [axis] = axes.as_slice() { format!("{axis},") } else { axes.join(", ") };
    let mut header = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({shape}), }}", element.name());
    // The elements begin at a multiple of 64 bytes, counted from the magic, as the format wants.
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let length = u16::try_from(header.len()).expect("eight axes fit");
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[1, 0]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    match array.data() {
        Data::Real(values) => values.iter().for_each(|&value| encode(value, element.precision, out)),
        Data::Complex(values) => values.iter().for_each(|value| {
            encode(value.re, element.precision, out);
            encode(value.im, element.precision, out);
        }),
    }
}

fn encode(value: f64, precision: Precision, out: &mut Vec<u8>) {
    match precision {
        #[allow(clippy::cast_possible_truncation, reason = "single precision was asked for")]
        Precision::Single => out.extend_from_slice(&(value as f32).to_le_bytes()),
        Precision::Double => out.extend_from_slice(&value.to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Array>, TransformError> {
        read_arrays(bytes, &Budget::default())
    }

    fn file(header: &str, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), body].concat()
    }

    /// What `numpy.save` of numpy 2.4 writes for `numpy.array([[1.0, 2.0, 3.0]], dtype="f4")`.
    #[test]
    fn a_file_of_numpy_is_read_and_written_byte_for_byte() {
        let mut header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }".to_owned();
        header.push_str(&" ".repeat(117 - header.len()));
        header.push('\n');
        let body: Vec<u8> = [1.0_f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let bytes = file(&header, &body);
        let arrays = read(&bytes).unwrap();
        assert_eq!(arrays[0].shape(), [1, 3]);
        assert_eq!(arrays[0].real().unwrap(), [1.0, 2.0, 3.0]);
        assert_eq!(write_arrays(&arrays, &Budget::default()).unwrap(), bytes);
    }

    #[test]
    fn each_defect_is_told() {
        let good = |shape: &str| format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}");
        let cases = [
            (b"hello".to_vec(), "does not begin like a NPY file"),
            (b"\x93NUMPY\x01".to_vec(), "ends within its header"),
            (b"\x93NUMPY\x09\x00\x10\x00".to_vec(), "not 1.0, 2.0 or 3.0"),
            (file("", &[]), "not the dictionary"),
            (file("{'descr': '<f8', 'shape': ()}", &[]), "not the dictionary"),
            (file(&good("(2)").replace("<f8", ">f8"), &[0; 16]), "little-endian"),
            (file(&good("(2)").replace("<f8", "<i8"), &[0; 16]), "use float32"),
            (file(&good("(2, 2)").replace("False", "True"), &[0; 32]), "ascontiguousarray"),
            (file(&good("(2,)"), &[0; 15]), "announces 16 bytes of elements but 15"),
            (file(&good("(-1,)"), &[]), "not the dictionary"),
        ];
        for (bytes, wanted) in cases {
            let error = read(&bytes).unwrap_err();
            assert_eq!(error.reason(), "TRANSFORM_BAD_INPUT");
            assert!(error.to_string().contains(wanted), "{error}");
        }
        let huge = read(&file(&good("(4294967296, 4294967296)"), &[])).unwrap_err();
        assert_eq!(huge.reason(), "TRANSFORM_BAD_INPUT", "{huge}");
        let large = read(&file(&good("(16777216, 2)"), &[])).unwrap_err();
        assert_eq!(large.reason(), "TRANSFORM_TOO_LARGE", "{large}");
        let small = Budget { memory_bytes: 79, ..Budget::default() };
        let error = read_arrays(&file(&good("(10,)"), &[0; 80]), &small).unwrap_err();
        assert_eq!(error.reason(), "TRANSFORM_MEMORY_LIMIT");
    }

    proptest! {
        #[test]
        fn arrays_round_trip(
            real in prop::collection::vec(-1e300..1e300_f64, 0..20),
            parts in prop::collection::vec((-1.0..1.0_f32, -1.0..1.0_f32), 6),
        ) {
            let complex = parts.iter().map(|&(re, im)| Complex64::new(re.into(), im.into())).collect();
            let arrays = vec![
                Array::vector(real).unwrap(),
                Array::new(vec![2, 1, 3], Data::Complex(complex)).unwrap().with_precision(Precision::Single),
                Array::new(vec![], Data::Real(vec![1.5])).unwrap(),
            ];
            prop_assert_eq!(read(&write_arrays(&arrays, &Budget::default()).unwrap()).unwrap(), arrays);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), header in "[ -~]{0,80}") {
            let _ = read(&bytes);
            let _ = read(&file(&header, &bytes));
            let _ = read(&file(&format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({header}), }}"), &bytes));
        }
    }
}
