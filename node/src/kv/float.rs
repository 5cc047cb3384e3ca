//! Addition of decimal numbers as in Redis: in x87's extended precision (64 bits of mantissa), printed with
//! 17 decimals.
//!
//! `INCRBYFLOAT` of Redis is `strtold`, an addition of `long double`, and `printf("%.17Lf")` without trailing
//! zeros. This module computes the same exactly in integers and rounds to nearest, ties to even, at the same
//! three places. So answers are equal to the last digit on every machine.

use num_bigint::{BigInt, BigUint, Sign};

/// Upper bound of the bytes of a number's text (the size of Redis's buffer).
const TEXT_MAX: usize = 5 * 1024;
/// Bits of a mantissa.
const PRECISION: u64 = 64;
/// A number beyond 2 to this power is infinite.
const EXPONENT_MAX: i64 = 16_384;
/// A text below 2 to this power is not a number.
const EXPONENT_MIN: i64 = -16_446;
/// Decimals that are printed.
const DECIMALS: u32 = 17;
/// Decimal exponents beyond this are out of range, whatever the digits are.
const DECIMAL_EXPONENT_MAX: i64 = 20_000;

/// A number: an integer times a power of two, or an infinity.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Number {
    Finite { mantissa: BigInt, exponent: i64 },
    Infinite,
}

/// Reason why two texts have no sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSum {
    /// One of the texts is not a number.
    NotANumber,
    /// The sum is infinite or not a number.
    NotFinite,
}

/// Returns the sum of two numbers, as text.
pub(super) fn add(a: &[u8], b: &[u8]) -> Result<String, NoSum> {
    let (a, b) = (parse(a).ok_or(NoSum::NotANumber)?, parse(b).ok_or(NoSum::NotANumber)?);
    let (Number::Finite { mantissa: a, exponent: ea }, Number::Finite { mantissa: b, exponent: eb }) = (a, b)
    else {
        return Err(NoSum::NotFinite);
    };
    let exponent = ea.min(eb);
    let sum = (a << (ea - exponent)) + (b << (eb - exponent));
    match round(sum.sign(), sum.magnitude(), &BigUint::from(1u8), exponent) {
        Number::Finite { mantissa, exponent } => Ok(format(&mantissa, exponent)),
        Number::Infinite => Err(NoSum::NotFinite),
    }
}

/// Rounds `numerator / denominator * 2^exponent` to the precision.
fn round(sign: Sign, numerator: &BigUint, denominator: &BigUint, exponent: i64) -> Number {
    let bits = numerator.bits() as i64 - denominator.bits() as i64;
    // With this shift the quotient has 64 or 65 bits.
    let mut shift = PRECISION as i64 - bits;
    let quotient = |shift: i64| {
        let (above, below) = (shift.max(0) as u64, (-shift).max(0) as u64);
        divide(&(numerator << above), &(denominator << below))
    };
    let mut rounded = quotient(shift);
    if rounded.bits() > PRECISION {
        shift -= 1;
        rounded = quotient(shift);
    }
    let exponent = exponent - shift;
    if rounded.bits() as i64 + exponent > EXPONENT_MAX {
        return Number::Infinite;
    }
    Number::Finite { mantissa: BigInt::from_biguint(sign, rounded), exponent }
}

/// Divides and rounds to nearest, ties to even.
fn divide(numerator: &BigUint, denominator: &BigUint) -> BigUint {
    let quotient = numerator / denominator;
    let twice_rest = (numerator - &quotient * denominator) << 1u32;
    let up = twice_rest > *denominator || (twice_rest == *denominator && quotient.bit(0));
    if up { quotient + 1u8 } else { quotient }
}

/// Parses the whole text as `strtold` does. Returns `None` for a text that is not a number, overflows or
/// underflows.
fn parse(text: &[u8]) -> Option<Number> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() < TEXT_MAX)?.to_ascii_lowercase();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (Sign::Minus, rest),
        None => (Sign::Plus, text.strip_prefix('+').unwrap_or(&text)),
    };
    if digits == "inf" || digits == "infinity" {
        return Some(Number::Infinite);
    }
    let (radix, digits, mark) = match digits.strip_prefix("0x") {
        Some(digits) => (16, digits, 'p'),
        None => (10, digits, 'e'),
    };
    let (digits, exponent) = match digits.split_once(mark) {
        Some((digits, exponent)) => (digits, parse_exponent(exponent)?),
        None => (digits, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    if all.is_empty() || !all.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let numerator = BigUint::parse_bytes(all.as_bytes(), radix)?;
    if numerator.bits() == 0 {
        return Some(Number::Finite { mantissa: BigInt::from(0), exponent: 0 });
    }
    let number = scale(sign, numerator, radix, fraction.len() as i64, exponent);
    let Number::Finite { mantissa, exponent } = &number else { return None };
    (mantissa.bits() as i64 + exponent > EXPONENT_MIN).then_some(number)
}

fn scale(sign: Sign, numerator: BigUint, radix: u32, decimals: i64, exponent: i64) -> Number {
    let one = BigUint::from(1u8);
    if radix == 16 {
        return round(sign, &numerator, &one, exponent - 4 * decimals);
    }
    let power = exponent - decimals;
    let ten = |power: i64| BigUint::from(10u8).pow(power.max(0) as u32);
    round(sign, &(numerator * ten(power)), &ten(-power), 0)
}

/// Parses an exponent: digits with an optional sign. Exponents out of range are clamped to the bound.
fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let size = digits.parse().unwrap_or(DECIMAL_EXPONENT_MAX).min(DECIMAL_EXPONENT_MAX);
    Some(if negative { -size } else { size })
}

/// Prints the number with 17 decimals, without trailing zeros.
fn format(mantissa: &BigInt, exponent: i64) -> String {
    let scaled = mantissa.magnitude() * BigUint::from(10u8).pow(DECIMALS);
    let (above, below) = (exponent.max(0) as u64, (-exponent).max(0) as u64);
    let digits = divide(&(scaled << above), &(BigUint::from(1u8) << below)).to_string();
    let digits = format!("{digits:0>width$}", width = DECIMALS as usize + 1);
    let (whole, fraction) = digits.split_at(digits.len() - DECIMALS as usize);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let text = format!("{whole}{point}{fraction}");
    if mantissa.sign() == Sign::Minus && text != "0" { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_redis() {
        let cases = [
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0", "0.1", "0.1"),
            ("3", "1.1", "4.1"),
            ("1", "-1", "0"),
            ("-0", "-0", "0"),
            ("17179869184", "1.5", "17179869185.5"),
            ("0", "123456789012345678901234567890", "123456789012345678899921813504"),
            ("0.3", "0.6", "0.9"),
            ("0x10", "0x.8p1", "17"),
            ("1e-20", "0", "0"),
            ("-1e-20", "0", "0"),
            (".5", "5.", "5.5"),
        ];
        for (a, b, sum) in cases {
            assert_eq!(add(a.as_bytes(), b.as_bytes()).as_deref(), Ok(sum), "{a} + {b}");
        }
    }

    #[test]
    fn text_that_is_not_a_number_is_rejected() {
        for wrong in
            ["", " 1", "1 ", "abc", "1e", "e1", ".", "-", "1.2.3", "nan", "1e5000", "1e-5000", "0x", "1_0"]
        {
            assert_eq!(add(b"1", wrong.as_bytes()), Err(NoSum::NotANumber), "{wrong}");
        }
        assert_eq!(add(b"inf", b"1"), Err(NoSum::NotFinite));
        assert_eq!(add(b"1.1e4932", b"1.1e4932"), Err(NoSum::NotFinite));
    }
}
