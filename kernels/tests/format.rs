//! Layouts, packing and quantising: what the host alone can see. (What the device makes of it: embed.rs.)

use larder_kernels::format::{
    Format, FormatError, Layout, PLANE_ALIGNMENT, e4m3_from_f32, pack_rows, quantise_rows,
};
use proptest::prelude::*;

/// A matrix takes the bytes of the file's blocks, and what aligns planes and pads rows.
#[test]
fn matrices_are_as_large_as_in_the_file() {
    for format in Format::ALL {
        let (n_out, n_in) = (24, 4096);
        let layout = Layout::new(format, n_out, n_in).unwrap();
        let scales = if matches!(format, Format::F8E4M3 | Format::I8) { 4 } else { 0 };
        let file = u64::from(n_out) * (layout.file_row_bytes() as u64 + scales);
        let padding = layout.bytes() - file;
        assert!(padding < layout.planes().len() as u64 * PLANE_ALIGNMENT, "{format:?}: {padding}");
        assert_eq!(layout.row_elements(), n_in);
    }
}

#[test]
fn rows_are_padded_to_chunks() {
    let row = |format, n_in| Layout::new(format, 1, n_in).unwrap().row_elements();
    assert_eq!(row(Format::F32, 1), 32);
    assert_eq!(row(Format::BF16, 96), 96);
    assert_eq!(row(Format::BF16, 97), 128);
    assert_eq!(row(Format::I8, 65), 128);
    assert_eq!(row(Format::Q8_0, 96), 128);
    assert_eq!(row(Format::Q4_0, 160), 256);
}

#[test]
fn planes_are_aligned_and_apart() {
    for format in Format::ALL {
        for (n_out, n_in) in [(1, 256), (3, 768), (1001, 512)] {
            let layout = Layout::new(format, n_out, n_in).unwrap();
            let mut end = 0;
            for plane in layout.planes() {
                assert!(plane.offset.is_multiple_of(PLANE_ALIGNMENT) && plane.offset >= end);
                end = plane.offset + plane.row_bytes * u64::from(n_out);
            }
            assert!(layout.bytes() >= end && layout.bytes().is_multiple_of(PLANE_ALIGNMENT));
        }
    }
}

#[test]
fn matrices_that_cannot_be_are_refused() {
    let why = |format, n_out, n_in| Layout::new(format, n_out, n_in).unwrap_err().to_string();
    assert_eq!(why(Format::F32, 0, 5), "a matrix of 0 x 5 has no elements");
    assert_eq!(why(Format::Q4_K, 5, 0), "a matrix of 5 x 0 has no elements");
    assert!(why(Format::Q8_0, 1, 33).contains("no whole number of Q8_0 blocks of 32"));
    assert!(why(Format::Q6_K, 1, 128).contains("no whole number of Q6_K blocks of 256"));
    assert!(why(Format::F32, 1, u32::MAX).contains("larger than can be addressed"));
    assert!(why(Format::F32, u32::MAX, u32::MAX - 31).contains("larger than can be addressed"));
    assert!(Layout::new(Format::F32, 2, u32::MAX - 31).is_ok());
    assert!(Layout::new(Format::I8, u32::MAX, 1 << 31).is_ok());
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let layout = Layout::new(Format::Q8_0, 4, 64).unwrap();
    let mut buffer = vec![0; layout.packed_bytes(4)];
    let rows = [0; 4 * 68];
    assert_eq!(
        pack_rows(&layout, 0, &rows[..67], &mut buffer),
        Err(FormatError::NotWholeRows { found: 67, row_bytes: 68 })
    );
    assert_eq!(
        pack_rows(&layout, 1, &rows, &mut buffer),
        Err(FormatError::Rows { first: 1, n: 4, n_out: 4 })
    );
    assert_eq!(
        pack_rows(&layout, 5, &[], &mut buffer),
        Err(FormatError::Rows { first: 5, n: 0, n_out: 4 })
    );
    let expected = layout.packed_bytes(4);
    assert_eq!(
        pack_rows(&layout, 0, &rows, &mut buffer[1..]),
        Err(FormatError::Bytes { what: "buffer for packed rows", found: expected - 1, expected })
    );
    assert!(pack_rows(&layout, 4, &[], &mut []).is_ok());
    let int8 = Layout::new(Format::I8, 4, 64).unwrap();
    assert_eq!(
        pack_rows(&int8, 0, &rows, &mut buffer),
        Err(FormatError::NotInFiles { format: Format::I8 })
    );
}

#[test]
fn values_that_cannot_be_quantised_are_refused() {
    let layout = Layout::new(Format::I8, 2, 3).unwrap();
    let mut buffer = vec![0; layout.packed_bytes(2)];
    assert!(quantise_rows(&layout, 0, &[0.0; 4], &mut buffer).is_err());
    for value in [f32::NAN, f32::INFINITY] {
        assert_eq!(
            quantise_rows(&layout, 1, &[1.0, value, 0.0], &mut buffer),
            Err(FormatError::NotFinite { row: 1 })
        );
    }
    let plain = Layout::new(Format::BF16, 2, 4).unwrap();
    assert_eq!(
        quantise_rows(&plain, 0, &[0.0; 4], &mut buffer),
        Err(FormatError::NotQuantised { format: Format::BF16 })
    );
}

#[test]
fn parts_of_a_matrix() {
    let layout = Layout::new(Format::Q6_K, 10, 1024).unwrap();
    let all = layout.weights(1 << 20);
    let part = all.rows(3, 7).unwrap().columns(256, 512).unwrap();
    assert_eq!((part.n_out, part.n_in, part.row_elements), (7, 512, 1024));
    for (i, plane) in layout.planes().iter().enumerate() {
        let column = plane.row_bytes / 4;
        assert_eq!(part.planes[i], all.planes[i] + 3 * plane.row_bytes + column);
    }
    assert!(all.rows(3, 8).is_err() && all.rows(0, 0).is_err() && all.rows(u32::MAX, 2).is_err());
    assert!(all.columns(128, 256).is_err() && all.columns(0, 128).is_err());
    assert!(all.columns(1024, 0).is_err() && all.columns(768, 512).is_err());
    assert!(all.columns(768, u32::MAX).is_err());
    // A row's end may be anywhere.
    let odd = Layout::new(Format::BF16, 1, 100).unwrap().weights(0);
    assert_eq!(odd.columns(96, 4).unwrap().planes[0], 192);
    assert!(odd.columns(32, 4).is_err());
    // The scale of a row is that of all its parts.
    let scaled = Layout::new(Format::I8, 2, 128).unwrap().weights(0);
    assert_eq!(scaled.columns(64, 64).unwrap().planes[1], scaled.planes[1]);
}

fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    match exponent {
        0 => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    }
}

#[test]
fn e4m3_rounds_to_nearest_even() {
    for bits in 0..0x7eu8 {
        let (low, high) = (e4m3(bits), e4m3(bits + 1));
        let middle = (low + high) / 2.0;
        let even = if bits % 2 == 0 { bits } else { bits + 1 };
        for (sign, flip) in [(1.0, 0), (-1.0, 0x80)] {
            assert_eq!(e4m3_from_f32(sign * low), bits | flip);
            assert_eq!(e4m3_from_f32(sign * middle), even | flip);
            assert_eq!(e4m3_from_f32(sign * middle.next_down()), bits | flip);
            assert_eq!(e4m3_from_f32(sign * middle.next_up()), (bits + 1) | flip);
        }
    }
    assert_eq!(e4m3_from_f32(448.0), 0x7e);
    assert_eq!(e4m3_from_f32(1e30), 0x7e);
    assert_eq!(e4m3_from_f32(f32::MIN_POSITIVE), 0);
}

proptest! {
    /// Any bytes and lengths give an error or a result.
    #[test]
    fn nothing_panics(
        format in 0..9usize,
        n_out in 0..5u32,
        blocks in 0..9u32,
        first in 0..6u32,
        rows in prop::collection::vec(any::<u8>(), 0..1500),
        room in 0..4000usize,
    ) {
        let format = Format::ALL[format];
        if let Ok(layout) = Layout::new(format, n_out, blocks * format.block_len()) {
            let mut buffer = vec![0; room];
            if let Ok(pieces) = pack_rows(&layout, first, &rows, &mut buffer) {
                for piece in pieces.iter() {
                    prop_assert!(piece.from + piece.bytes <= room);
                    prop_assert!(piece.to + piece.bytes as u64 <= layout.bytes());
                }
            }
            let values: Vec<f32> = rows.iter().map(|&byte| f32::from(byte)).collect();
            let _ = quantise_rows(&layout, first, &values, &mut buffer);
        }
    }
}
