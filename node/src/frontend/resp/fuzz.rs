//! The fuzz target `resp`: see [`crate::fuzz`].

use bytes::BytesMut;

use super::parser::{Batch, Bounds, Parser};
use crate::fuzz::pieces;

const BOUNDS: Bounds = Bounds { bulk_bytes_max: 1000, args_max: 64, request_bytes_max: 6000 };

/// Parses the pieces. Returns the commands and the error that ended the input.
fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let (mut parser, mut buffer, mut batch) = (Parser::new(BOUNDS), BytesMut::new(), Batch::default());
    let mut commands = Vec::new();
    for part in parts {
        buffer.extend_from_slice(part);
        loop {
            let result = parser.parse(&mut buffer, &mut batch);
            let before = commands.len();
            while let Some(args) = batch.current() {
                assert!((1..=BOUNDS.args_max.max(6000)).contains(&args.len()), "a command of {}", args.len());
                let kept = args.to_owned();
                let words: Vec<_> = args.from(0).map(<[u8]>::to_vec).collect();
                assert!(kept.as_args().from(0).eq(words.iter().map(Vec::as_slice)), "kept for later");
                commands.push(words);
                batch.advance();
            }
            let found = commands.len() > before;
            match result {
                Err(error) if !found => return (commands, Some(error.to_string())),
                Ok(()) if !found => break,
                _ => {}
            }
        }
        // Memory must follow the bytes sent, not the length announced.
        assert!(parser.wanted(&buffer) <= BOUNDS.bulk_bytes_max + 2);
    }
    (commands, None)
}

fn encoded(command: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Checks that the commands do not depend on how the input is cut, and that commands encoded as arrays are
/// parsed as the same commands.
pub(crate) fn run(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let (commands, error) = read(std::iter::once(bytes));
    let (in_pieces, error_in_pieces) = read(pieces(*cut, bytes));
    assert_eq!(commands, in_pieces, "in pieces");
    assert_eq!(error, error_in_pieces, "in pieces");
    let within = |command: &&Vec<Vec<u8>>| {
        command.len() <= BOUNDS.args_max
            && encoded(command).len() <= BOUNDS.request_bytes_max
            && command.iter().all(|word| word.len() <= BOUNDS.bulk_bytes_max)
    };
    // Inline commands may have more words than arrays.
    let commands: Vec<_> = commands.iter().filter(within).cloned().collect();
    let again: Vec<u8> = commands.iter().flat_map(|command| encoded(command)).collect();
    assert_eq!(read(std::iter::once(&again[..])), (commands, None), "written and read again");
}

/// Returns the initial inputs.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let inputs: [&[u8]; 5] = [
        b"\x03*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        b"\x01PING\r\n  SET  a\t\"b \\x41\\n\" 'c d'\nGET a\n",
        b"\x05*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n*x\r\n",
        b"\x02*1\r\n$1001\r\n",
        b"\x07GET \"a\"b\r\n",
    ];
    inputs.map(<[u8]>::to_vec).to_vec()
}
