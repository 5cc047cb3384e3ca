//! Accepted and rejected input, however it is cut into pieces.

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { bulk_bytes_max: 1000, args_max: 64, request_bytes_max: 20_000 };

/// Parses `pieces` one after the other. Returns the commands and the error that ended the input.
fn parse_all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let (mut parser, mut buffer, mut batch) = (Parser::new(BOUNDS), BytesMut::new(), Batch::default());
    let mut commands = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let result = parser.parse(&mut buffer, &mut batch);
            let before = commands.len();
            while let Some(args) = batch.current() {
                assert!(args.len() > 0, "a command is never empty");
                commands.push(args.from(0).map(<[u8]>::to_vec).collect());
                batch.advance();
            }
            match result {
                Err(error) if commands.len() == before => return (commands, Some(error.to_string())),
                Err(_) => {}
                Ok(()) if commands.len() == before => break,
                Ok(()) => {}
            }
        }
    }
    (commands, None)
}

fn encoded(command: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for arg in command {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn error_of(bytes: &[u8]) -> Option<String> {
    parse_all([bytes]).1
}

fn texts(bytes: &[u8]) -> Vec<Vec<String>> {
    let lossy = |arg: Vec<u8>| String::from_utf8_lossy(&arg).into_owned();
    parse_all([bytes]).0.into_iter().map(|command| command.into_iter().map(lossy).collect()).collect()
}

#[test]
fn lines_typed_by_hand_are_commands() {
    assert_eq!(
        texts(b"PING\r\n  SET  a\t\"b \\x41\\n\" 'c d'\n\r\nGET a\n"),
        [vec!["PING"], vec!["SET", "a", "b A\n", "c d"], vec!["GET", "a"]]
    );
}

#[test]
fn empty_commands_are_skipped() {
    assert_eq!(texts(b"*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n"), [["PING"]]);
}

#[test]
fn malformed_requests_are_rejected_with_the_texts_of_redis() {
    let cases: [(&[u8], &str); 8] = [
        (b"*x\r\n", "Protocol error: invalid multibulk length"),
        (b"*65\r\n", "Protocol error: invalid multibulk length"),
        (b"*1\r\n:1\r\n", "Protocol error: expected '$', got ':'"),
        (b"*1\r\n$x\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$1001\r\n", "Protocol error: invalid bulk length"),
        (b"GET \"a\r\n", "Protocol error: unbalanced quotes in request"),
        (b"GET \"a\"b\r\n", "Protocol error: unbalanced quotes in request"),
    ];
    for (bytes, text) in cases {
        assert_eq!(error_of(bytes).as_deref(), Some(text), "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn lines_and_requests_without_end_are_rejected() {
    assert_eq!(
        error_of(&vec![b'a'; LINE_BYTES_MAX + 1]).as_deref(),
        Some("Protocol error: too big inline request")
    );
    let long = [b"*1".to_vec(), vec![b'1'; LINE_BYTES_MAX]].concat();
    assert_eq!(error_of(&long).as_deref(), Some("Protocol error: too big mbulk count string"));
    let many = encoded(&vec![vec![0; 1000]; 30]);
    assert_eq!(
        error_of(&many[..25_000]).as_deref(),
        Some("Protocol error: request is longer than 20000 bytes")
    );
}

#[test]
fn commands_before_an_error_are_run() {
    let (commands, error) = parse_all([b"PING\r\n*1\r\n$4\r\nPING\r\n*x\r\n".as_slice()]);
    assert_eq!((commands.len(), error.is_some()), (2, true));
}

proptest! {
    #[test]
    fn commands_survive_any_cutting(
        commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5), 1..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encoded(command)).collect();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let (found, error) = parse_all(places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
        prop_assert_eq!(error, None);
        prop_assert_eq!(found, commands);
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow(bytes in prop::collection::vec(
        prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'"'), b'0'..=b'9', any::<u8>()], 0..300))
    {
        let (mut parser, mut buffer, mut batch) = (Parser::new(BOUNDS), BytesMut::new(), Batch::default());
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            if parser.parse(&mut buffer, &mut batch).is_err() {
                break;
            }
            while batch.current().is_some() {
                batch.advance();
            }
            prop_assert!(parser.wanted(&buffer) <= BOUNDS.bulk_bytes_max + 2);
        }
    }
}

#[test]
fn rejected_line_stays_rejected_after_the_commands_before_it() {
    let (commands, error) = parse_all([&b"PING\r\nSET k \"abc\r\n"[..]]);
    assert_eq!(commands, [[b"PING".to_vec()]]);
    assert!(error.is_some_and(|error| error.contains("unbalanced quotes")));
}

proptest! {
    /// Compares the parser with another decoder on random commands.
    #[test]
    fn commands_are_read_as_another_decoder_reads_them(
        commands in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8), 1..6
        ),
        cut in 1usize..50,
    ) {
        use redis_protocol::resp2::decode::decode_bytes;
        use redis_protocol::resp2::types::BytesFrame;
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encoded(command)).collect();
        let (mut rest, mut theirs) = (Bytes::from(bytes.clone()), Vec::new());
        while let Ok(Some((BytesFrame::Array(words), used))) = decode_bytes(&rest) {
            let word = |frame: BytesFrame| match frame {
                BytesFrame::BulkString(word) => word.to_vec(),
                other => panic!("{other:?}"),
            };
            theirs.push(words.into_iter().map(word).collect::<Vec<_>>());
            rest = rest.slice(used..);
        }
        let (ours, error) = parse_all(bytes.chunks(cut));
        prop_assert_eq!(error, None);
        prop_assert_eq!(&ours, &theirs);
        prop_assert_eq!(&ours, &commands);
    }
}
