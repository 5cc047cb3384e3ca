//! Bits of a value as in Redis's bit commands: bit 0 is the highest bit of the first byte. Bits after the
//! value's end are clear.

use serde::{Deserialize, Serialize};

/// A range of a value; negative indices count from the value's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BitRange {
    /// Index of the first unit, inclusive.
    pub start: i64,
    /// Index of the last unit, inclusive.
    pub end: i64,
    /// Unit of the indices.
    pub unit: BitRangeUnit,
}

/// Unit of the indices of a [`BitRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BitRangeUnit {
    /// Bytes.
    Byte,
    /// Bits.
    Bit,
}

/// Bitwise operation on several values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bitwise {
    /// A bit is set if it is set in all values.
    And,
    /// A bit is set if it is set in any value.
    Or,
    /// A bit is set if it is set in an odd number of values.
    Xor,
    /// A bit is set if it is clear in the first value.
    Not,
}

/// An integer stored in a value's bits, and the action on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Whether the integer is in two's complement; else it is unsigned.
    pub signed: bool,
    /// Width in bits: 1 to 64 if signed, else 1 to 63.
    pub bits: u8,
    /// Index of its first bit.
    pub offset: u64,
    /// The action.
    pub action: FieldAction,
}

/// Action on a [`Field`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldAction {
    /// Reads the integer.
    Get,
    /// Writes an integer, and answers the former one.
    Set(i64, Overflow),
    /// Adds to the integer, and answers the sum.
    Add(i64, Overflow),
}

/// Treatment of a number that does not fit a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overflow {
    /// Its low bits are written.
    Wrap,
    /// The nearest number that fits is written.
    Saturate,
    /// Nothing is written.
    Fail,
}

impl Field {
    /// Returns whether the action can change the value.
    pub fn writes(&self) -> bool {
        self.action != FieldAction::Get
    }

    /// Returns the length in bytes of the shortest value that contains the field.
    pub fn end_bytes(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.bits)).div_ceil(8)
    }

    /// Returns whether the width is valid.
    pub(super) fn is_valid(&self) -> bool {
        (1..=64).contains(&self.bits) && (self.signed || self.bits < 64)
    }

    fn bounds(&self) -> (i128, i128) {
        if self.signed {
            (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)
        } else {
            (0, (1 << self.bits) - 1)
        }
    }

    fn read(&self, value: &[u8]) -> i128 {
        let bits = (0..u64::from(self.bits)).map(|i| bit(value, self.offset + i));
        let number = bits.fold(0i128, |number, set| (number << 1) | i128::from(set));
        let negative = self.signed && bit(value, self.offset);
        if negative { number - (1 << self.bits) } else { number }
    }

    fn write(&self, value: &mut [u8], number: i128) {
        for i in 0..u64::from(self.bits) {
            let shift = u32::from(self.bits) - 1 - i as u32;
            set_bit(value, self.offset + i, (number >> shift) & 1 == 1);
        }
    }

    /// Returns the number to write according to `overflow`, or `None` if none is to be written.
    fn fit(&self, number: i128, overflow: Overflow) -> Option<i128> {
        let (least, most) = self.bounds();
        if (least..=most).contains(&number) {
            return Some(number);
        }
        match overflow {
            Overflow::Fail => None,
            Overflow::Saturate => Some(number.clamp(least, most)),
            Overflow::Wrap => {
                let low = number & ((1 << self.bits) - 1);
                Some(if low > most { low - (1 << self.bits) } else { low })
            }
        }
    }

    /// Executes the action on a value, which must contain the field if the action writes. Returns `None` if
    /// an overflow prevented the write.
    pub(super) fn carry_out(&self, value: &mut [u8]) -> Option<i64> {
        let before = self.read(value);
        let answer = match self.action {
            FieldAction::Get => before,
            FieldAction::Set(number, overflow) => {
                // For an unsigned field the 64 bits given are a positive number.
                let number = if self.signed { i128::from(number) } else { i128::from(number as u64) };
                let fitting = self.fit(number, overflow)?;
                self.write(value, fitting);
                before
            }
            FieldAction::Add(number, overflow) => {
                let fitting = self.fit(before + i128::from(number), overflow)?;
                self.write(value, fitting);
                fitting
            }
        };
        i64::try_from(answer).ok()
    }
}

/// Returns whether a bit is set.
pub(super) fn bit(value: &[u8], offset: u64) -> bool {
    let byte = usize::try_from(offset / 8).ok().and_then(|at| value.get(at));
    byte.is_some_and(|byte| byte & (0x80 >> (offset % 8)) != 0)
}

/// Sets or clears a bit; ignores a bit after the value's end.
pub(super) fn set_bit(value: &mut [u8], offset: u64, set: bool) {
    if let Some(byte) = usize::try_from(offset / 8).ok().and_then(|at| value.get_mut(at)) {
        let mask = 0x80 >> (offset % 8);
        *byte = if set { *byte | mask } else { *byte & !mask };
    }
}

/// Resolves the range `start..=end` of something of `len` units. Returns `None` if the range is empty, or if
/// both indices are negative and in the wrong order.
pub(super) fn places(start: i64, end: i64, len: u64) -> Option<(u64, u64)> {
    if start < 0 && end < 0 && start > end { None } else { clamped(start, end, len) }
}

/// Resolves a range like [`places`], but accepts negative indices in any order: indices before the beginning
/// mean the beginning.
fn clamped(start: i64, end: i64, len: u64) -> Option<(u64, u64)> {
    let from_end = |place: i64| match u64::try_from(place) {
        Ok(place) => place,
        Err(_) => len.saturating_sub(place.unsigned_abs()),
    };
    let (start, end) = (from_end(start), from_end(end).min(len.checked_sub(1)?));
    (start <= end).then_some((start, end))
}

/// Function that resolves a range: start, end, number of units.
type Places = fn(i64, i64, u64) -> Option<(u64, u64)>;

/// Returns the first and last bit of a range, or `None` if the range is empty.
fn bits_of(value: &[u8], range: Option<BitRange>, places: Places) -> Option<(u64, u64)> {
    let len = value.len() as u64;
    match range.unwrap_or(BitRange { start: 0, end: -1, unit: BitRangeUnit::Byte }) {
        BitRange { start, end, unit: BitRangeUnit::Bit } => places(start, end, len * 8),
        BitRange { start, end, unit: BitRangeUnit::Byte } => {
            places(start, end, len).map(|(start, end)| (start * 8, end * 8 + 7))
        }
    }
}

/// Returns the number of set bits of a range.
pub(super) fn count(value: &[u8], range: Option<BitRange>) -> u64 {
    let Some((start, end)) = bits_of(value, range, places) else { return 0 };
    let (first, last) = ((start / 8) as usize, (end / 8) as usize);
    let bytes = value.get(first..=last).unwrap_or_default();
    let all: u64 = bytes.iter().map(|byte| u64::from(byte.count_ones())).sum();
    let before = (start / 8 * 8..start).filter(|at| bit(value, *at)).count() as u64;
    let behind = (end + 1..(end / 8 + 1) * 8).filter(|at| bit(value, *at)).count() as u64;
    all - before - behind
}

/// Returns the index of the first bit of a range that equals `wanted`. If a clear bit is wanted and all are
/// set, the result is the bit after the range, unless the search is `bounded`.
pub(super) fn find(value: &[u8], wanted: bool, range: Option<BitRange>, bounded: bool) -> Option<u64> {
    // Unlike the other commands, Redis's BITPOS does not check the order of two negative indices.
    let (start, end) = bits_of(value, range, clamped)?;
    let dull = if wanted { 0x00 } else { 0xff };
    let mut at = start;
    while at <= end {
        let whole = at.is_multiple_of(8) && value.get((at / 8) as usize) == Some(&dull);
        if !whole && bit(value, at) == wanted {
            return Some(at);
        }
        at += if whole { 8 } else { 1 };
    }
    (!wanted && !bounded).then_some(end + 1)
}

/// Combines values. The result is as long as the longest value; shorter ones count as padded with zeros.
pub(super) fn combine(how: Bitwise, values: &[&[u8]]) -> Vec<u8> {
    let len = values.iter().map(|value| value.len()).max().unwrap_or(0);
    let byte = |value: &[u8], at: usize| value.get(at).copied().unwrap_or(0);
    let column = |at: usize| {
        let mut bytes = values.iter().map(|value| byte(value, at));
        let first = bytes.next().unwrap_or(0);
        match how {
            Bitwise::And => bytes.fold(first, |a, b| a & b),
            Bitwise::Or => bytes.fold(first, |a, b| a | b),
            Bitwise::Xor => bytes.fold(first, |a, b| a ^ b),
            Bitwise::Not => !first,
        }
    };
    (0..len).map(column).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(value: &[u8]) -> Vec<bool> {
        (0..value.len() as u64 * 8).map(|at| bit(value, at)).collect()
    }

    proptest! {
        #[test]
        fn counting_and_finding_agree_with_looking_at_every_bit(
            value in proptest::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..12),
            start in -110i64..110, end in -110i64..110, bits: bool, wanted: bool, bounded: bool,
        ) {
            let unit = if bits { BitRangeUnit::Bit } else { BitRangeUnit::Byte };
            let range = BitRange { start, end, unit };
            let all = naive(&value);
            let within = |places| -> Vec<u64> {
                bits_of(&value, Some(range), places).map_or(vec![], |(a, b)| (a..=b).collect())
            };
            let set = within(places).iter().filter(|at| all[**at as usize]).count() as u64;
            prop_assert_eq!(count(&value, Some(range)), set);
            let within = within(clamped);
            let found = within.iter().copied().find(|at| all[*at as usize] == wanted);
            let behind = within.last().filter(|_| !wanted && !bounded).map(|last| last + 1);
            prop_assert_eq!(find(&value, wanted, Some(range), bounded), found.or(behind));
        }

        #[test]
        fn field_that_is_set_is_read_back_and_nothing_else_changes(
            mut value in proptest::collection::vec(any::<u8>(), 20), signed: bool, bits in 1u8..=64,
            offset in 0u64..90, number: i64,
        ) {
            let bits = if signed { bits } else { bits.min(63) };
            let field = |action| Field { signed, bits, offset, action };
            let before = naive(&value);
            let set = field(FieldAction::Set(number, Overflow::Wrap));
            set.carry_out(&mut value);
            let read = field(FieldAction::Get).carry_out(&mut value).unwrap();
            let low = |number: i64| (number as u64) << (64 - set.bits);
            prop_assert_eq!(low(read), low(number));
            let after = naive(&value);
            for at in 0..before.len() as u64 {
                if !(offset..offset + u64::from(set.bits)).contains(&at) {
                    prop_assert_eq!(before[at as usize], after[at as usize]);
                }
            }
        }
    }

    #[test]
    fn field_without_room_wraps_saturates_or_stays() {
        let run = |signed, number, overflow| {
            let mut value = vec![0x7f];
            let field = Field { signed, bits: 8, offset: 0, action: FieldAction::Add(number, overflow) };
            (field.carry_out(&mut value), value[0])
        };
        assert_eq!(run(true, 1, Overflow::Wrap), (Some(-128), 0x80));
        assert_eq!(run(true, 1, Overflow::Saturate), (Some(127), 0x7f));
        assert_eq!(run(true, 1, Overflow::Fail), (None, 0x7f));
        assert_eq!(run(true, -256, Overflow::Saturate), (Some(-128), 0x80));
        assert_eq!(run(false, 200, Overflow::Wrap), (Some(71), 71));
        assert_eq!(run(false, -200, Overflow::Saturate), (Some(0), 0));
    }

    #[test]
    fn values_are_combined_as_long_as_the_longest() {
        let values = [&b"\xff\x0f"[..], b"\x33"];
        assert_eq!(combine(Bitwise::And, &values), [0x33, 0]);
        assert_eq!(combine(Bitwise::Or, &values), [0xff, 0x0f]);
        assert_eq!(combine(Bitwise::Xor, &values), [0xcc, 0x0f]);
        assert_eq!(combine(Bitwise::Not, &values[..1]), [0x00, 0xf0]);
        assert!(combine(Bitwise::Or, &[b"", b""]).is_empty());
    }
}
