//! Codes the length of a record in 15 bits: the number of bytes to read for it.
//!
//! Lengths below 8 KiB are exact. A longer one is a binary floating-point number with 11 significant bits,
//! rounded up by at most 0.1 %, so that a read of the coded length always covers the whole record.
//!
//! ```text
//! code < 8192   the length
//! else          8192 + exponent * 1024 + fraction: (1024 + fraction) * 2^(exponent + 3)
//! ```

/// Number of bits of the lengths that are coded exactly.
const EXACT_BITS: u32 = 13;
/// Bits of the fraction; one more bit is implied.
const FRACTION_BITS: u32 = 10;

/// Bits of a code.
pub(crate) const CODE_BITS: u32 = 15;
/// Longest length that has a code.
pub(crate) const LEN_MAX: u32 = 1 << 31;

const _: () = assert!(code_of(LEN_MAX) < 1 << CODE_BITS);

/// Returns the code of a length of at most [`LEN_MAX`]. Coding the result of [`at_most`] yields the same
/// code.
pub(crate) const fn code_of(len: u32) -> u16 {
    debug_assert!(len <= LEN_MAX);
    if len < 1 << EXACT_BITS {
        return len as u16;
    }
    let magnitude = len.ilog2();
    // 1024 to 2048; at 2048 it carries into the exponent, as it should.
    let significant = len.div_ceil(1 << (magnitude - FRACTION_BITS));
    let exponent = magnitude - EXACT_BITS;
    ((1 << EXACT_BITS) + (exponent << FRACTION_BITS) + significant - (1 << FRACTION_BITS)) as u16
}

/// Returns the longest length of this code, which must be a result of [`code_of`].
pub(crate) const fn at_most(code: u16) -> u32 {
    let Some(float) = (code as u32).checked_sub(1 << EXACT_BITS) else {
        return code as u32;
    };
    let significant = (1 << FRACTION_BITS) + (float & ((1 << FRACTION_BITS) - 1));
    significant << ((float >> FRACTION_BITS) + EXACT_BITS - FRACTION_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(len: u32) {
        let code = code_of(len);
        let bound = at_most(code);
        assert!(code < 1 << CODE_BITS);
        assert!(bound >= len && u64::from(bound - len) * 1000 <= u64::from(len), "{len}: {bound}");
        assert_eq!(code_of(bound), code, "{len}");
    }

    #[test]
    fn lengths_below_8_kib_are_exact() {
        (0..8192).for_each(|len| assert_eq!(at_most(code_of(len)), len));
    }

    #[test]
    fn longer_lengths_are_rounded_up_by_a_thousandth_at_most() {
        let edges = (13..32).flat_map(|bits| (0..3).map(move |beside| (1_u32 << bits) - 1 + beside));
        edges.filter(|&len| len <= LEN_MAX).for_each(check);
    }

    proptest! {
        #[test]
        fn any_length_has_a_code(len in 0..=LEN_MAX) {
            check(len);
        }

        #[test]
        fn codes_are_in_the_order_of_the_lengths(a in 0..=LEN_MAX, b in 0..=LEN_MAX) {
            prop_assert!(a > b || code_of(a) <= code_of(b));
        }
    }
}
