//! Bytes as hexadecimal digits.

/// The bytes as lower-case digits.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 32 bytes of 64 lower-case digits, such as of a SHA-256.
pub(crate) fn decode_32(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_64_lower_case_digits() {
        let sum: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 8).unwrap());
        assert_eq!(decode_32(&encode(&sum)), Some(sum));
        for bad in [
            "0",
            "zz",
            "",
            &encode(&sum).to_uppercase(),
            &encode(&sum)[2..],
            &format!("{}00", encode(&sum)),
            &"é".repeat(32),
        ] {
            assert_eq!(decode_32(bad), None, "{bad}");
        }
    }
}
