use super::*;

const SALT: Salt = Salt(0x0123_4567_89ab_cdef);

fn value_header(version: u64) -> Header {
    Header { version, user_flags: 9, expiry_ms: 77, era: 3, ..blank(Kind::Value) }
}

#[test]
fn file_header_reads_back_and_any_flipped_bit_is_refused() {
    let header = FileHeader { kind: FileKind::Merged, id: 42, salt: SALT };
    let bytes = header.encode();
    assert_eq!(FileHeader::decode(&bytes), Ok(header));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(FileHeader::decode(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn files_of_builds_before_the_first_release_are_known_by_magic_and_checksum() {
    let sealed = |magic: &[u8; 8], bytes: &[u8]| {
        let mut former = [magic, &bytes[8..bytes.len() - 4]].concat();
        former.extend_from_slice(&crc32fast::hash(&former).to_le_bytes());
        former
    };
    let header = sealed(b"CASKDATA", &FileHeader { kind: FileKind::Log, id: 1, salt: SALT }.encode());
    assert_eq!(FileHeader::decode(&header), Err(Bad::Former));
    let eras = sealed(b"CASKERAS", &Eras::new().encode());
    assert_eq!(Eras::decode(&eras), Err(Bad::Former));
    let marker = sealed(b"CASKSNAP", &marker::Marker::Partial.encode());
    assert_eq!(marker::Marker::decode(&marker), Err(Bad::Former));
    // Without a valid checksum the magic is damage.
    for (mut bytes, decode) in [
        (header, (|bytes| FileHeader::decode(bytes).err()) as fn(&[u8]) -> Option<Bad>),
        (eras, |bytes| Eras::decode(bytes).err()),
        (marker, |bytes| marker::Marker::decode(bytes).err()),
    ] {
        bytes[9] ^= 1;
        assert_eq!(decode(&bytes), Some(Bad::Magic));
    }
}

#[test]
fn record_reads_back_and_any_flipped_bit_is_refused() {
    let mut bytes = Vec::new();
    encode_record(&mut bytes, SALT, value_header(5), b"key", b"value");
    let parsed = Parsed::parse(&bytes, SALT).unwrap();
    assert_eq!((parsed.key, parsed.value), (&b"key"[..], &b"value"[..]));
    assert_eq!((parsed.header.version, parsed.header.era, parsed.header.user_flags), (5, 3, 9));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Parsed::parse(&flipped, SALT).is_err(), "bit {bit}");
    }
}

#[test]
fn record_of_a_file_with_another_salt_is_refused() {
    let mut bytes = Vec::new();
    encode_record(&mut bytes, SALT, value_header(5), b"key", b"value");
    assert_eq!(Parsed::parse(&bytes, Salt(1)).err(), Some(Bad::Checksum));
}

#[test]
fn zeros_are_no_record() {
    assert!(Parsed::parse(&[0; 100], SALT).is_err());
}

#[test]
fn batch_gives_its_members_with_their_offsets() {
    let mut bytes = vec![1, 2, 3];
    let start = begin_batch(&mut bytes);
    for version in 0..3 {
        let header = Header { flags: FLAG_IN_BATCH, ..value_header(version) };
        encode_record(&mut bytes, SALT, header, b"k", b"v");
    }
    end_batch(&mut bytes, SALT, start, 3);
    let frame = Parsed::parse(&bytes[start..], SALT).unwrap();
    let members = frame.members(SALT).unwrap();
    assert_eq!(members.len(), 3);
    for (version, (offset, member)) in members.iter().enumerate() {
        assert_eq!(member.header.version, version as u64);
        assert_eq!(Parsed::parse(&bytes[start + offset..], SALT).unwrap().header, member.header);
    }
}

#[test]
fn mark_counts_only_at_its_own_offset() {
    let bytes = encode_mark(SALT, 500, 400);
    let mark = Parsed::parse(&bytes, SALT).unwrap();
    assert_eq!(mark.mark_at(500, SALT), Some(400));
    assert_eq!(mark.mark_at(501, SALT), None);
}

#[test]
fn eras_read_back_and_any_flipped_byte_is_refused() {
    let mut eras = Eras::new();
    eras.eras[1023] = 7;
    eras.file_id_floor = 12;
    eras.version_floor = 13;
    eras.removed = vec![3, 9];
    let bytes = eras.encode();
    assert_eq!(Eras::decode(&bytes), Ok(eras));
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        assert!(Eras::decode(&flipped).is_err(), "byte {at}");
    }
}

#[test]
fn id_floor_that_counting_on_would_overflow_is_refused() {
    let with_floor = |file_id_floor| Eras::decode(&Eras { file_id_floor, ..Eras::new() }.encode());
    assert!(with_floor(FILE_ID_MAX).is_ok());
    assert_eq!(with_floor(FILE_ID_MAX + 1), Err(Bad::Fields));
}

#[test]
fn ids_file_reads_what_it_writes_and_nothing_else() {
    let bytes = encode_ids(77);
    assert_eq!(decode_ids(&bytes), Some(77));
    for at in 0..bytes.len() {
        let mut changed = bytes;
        changed[at] ^= 1;
        assert_eq!(decode_ids(&changed), None, "byte {at}");
        assert_eq!(decode_ids(&bytes[..at]), None, "{at} bytes");
    }
    assert_eq!(decode_ids(&[&bytes[..], b"0"].concat()), None);
}
