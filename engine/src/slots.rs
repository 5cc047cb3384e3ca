//! Maps a key to its slot and partition exactly as Redis Cluster does, so that its clients can compute both.
//!
//! Pure. The checksum is CRC-16/XMODEM (polynomial 0x1021, initial value 0). It covers the key's hash tag, or
//! the whole key if it has no tag (Redis Cluster specification, "Hash tags").

/// A partition's number, `0..1024`.
pub type Partition = u16;

/// Number of partitions.
pub const PARTITIONS: u16 = 1024;

/// Number of slots; 16 consecutive slots make a partition.
pub const SLOTS: u16 = 16_384;

/// Slots in one partition.
const SLOTS_PER_PARTITION: u16 = SLOTS / PARTITIONS;

const _: () = assert!(SLOTS_PER_PARTITION == 16 && SLOTS.is_power_of_two());

/// Returns the slot of a key, `0..16384`: the CRC-16 of its hash tag, or of the whole key if it has none.
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) & (SLOTS - 1)
}

/// Returns the partition of a key, `0..1024`.
pub fn partition_of(key: &[u8]) -> Partition {
    slot_of(key) / SLOTS_PER_PARTITION
}

/// Returns the partition that all keys with this prefix share; `None` unless the prefix contains a whole hash
/// tag.
pub fn partition_of_prefix(prefix: &[u8]) -> Option<Partition> {
    (hash_tag(prefix).len() < prefix.len()).then(|| partition_of(prefix))
}

/// Returns the bytes between the first `{` and the first `}` after it, unless there are none; otherwise the
/// key.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else {
        return key;
    };
    let rest = key.get(open + 1..).unwrap_or_default();
    match rest.iter().position(|&byte| byte == b'}') {
        Some(len) if len > 0 => rest.get(..len).unwrap_or(key),
        _ => key,
    }
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, &byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

static TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // The check value of CRC-16/XMODEM, and results of CLUSTER KEYSLOT.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"somekey"), 11058);
        assert_eq!(slot_of(b""), 0);
    }

    #[test]
    fn only_the_first_whole_hash_tag_counts() {
        assert_eq!(slot_of(b"foo{hash_tag}"), slot_of(b"hash_tag"));
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hash_tag(b"foo{bar}{zap}"), b"bar");
        assert_eq!(hash_tag(b"foo{bar"), b"foo{bar");
        assert_eq!(hash_tag(b"{"), b"{");
    }

    #[test]
    fn prefix_with_a_whole_hash_tag_is_in_one_partition() {
        assert_eq!(partition_of_prefix(b"user:{42}"), Some(partition_of(b"user:{42}:name")));
        for prefix in [&b""[..], b"user:", b"user:{42", b"user:{}"] {
            assert_eq!(partition_of_prefix(prefix), None);
        }
    }
}
