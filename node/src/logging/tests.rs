//! The log with outputs that fail, block, tear lines or panic: calls never block, and lost lines are counted.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc;

use super::*;

/// Serializes the tests, which all read the process-wide counter of dropped lines.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const LIMIT: Duration = Duration::from_secs(10);

/// An output that fails, accepts part of a line, blocks or panics on demand.
#[derive(Clone, Default)]
struct Disk {
    written: Arc<Mutex<Vec<u8>>>,
    /// Bytes that fit; further writes fail with ENOSPC.
    room: Arc<AtomicUsize>,
    /// Writes block while this is locked.
    stuck: Arc<Mutex<()>>,
    panics: Arc<AtomicBool>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(self.stuck.lock());
        assert!(!self.panics.swap(false, Ordering::SeqCst), "on purpose");
        let fits = bytes.len().min(self.room.load(Ordering::SeqCst));
        if fits == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room.fetch_sub(fits, Ordering::SeqCst);
        self.written.lock().extend_from_slice(&bytes[..fits]);
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk {
    fn with_room(room: usize) -> Self {
        let disk = Self::default();
        disk.room.store(room, Ordering::SeqCst);
        disk
    }

    fn log(&self) -> Log {
        Log::on(Output::to(LogFormat::Human, Box::new(self.clone())))
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.written.lock().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

fn dropped_by(act: impl FnOnce()) -> u64 {
    let before = dropped_lines();
    act();
    dropped_lines() - before
}

#[test]
fn lines_that_a_full_disk_refuses_are_counted_and_reported_when_there_is_room() {
    let _alone = ONE_AT_A_TIME.lock();
    // The second line fits in part.
    let disk = Disk::with_room(9);
    let log = disk.log();
    let dropped = dropped_by(|| {
        for line in ["first\n", "second\n", "third\n"] {
            log.line(line.as_bytes());
        }
        assert!(log.flush(LIMIT));
    });
    assert_eq!(dropped, 2);
    disk.room.store(1 << 20, Ordering::SeqCst);
    log.line(b"fourth\n");
    assert!(log.flush(LIMIT));
    let lines = disk.lines();
    assert_eq!((lines[0].as_str(), lines[1].as_str()), ("first", "sec"), "{lines:?}");
    assert!(lines[2].contains("WARN") && lines[2].contains(" 2 log lines were dropped"), "{lines:?}");
    assert_eq!(lines[3..], ["fourth"]);
}

#[test]
fn log_that_nobody_reads_blocks_nobody_and_later_reports_how_many_lines_are_missing() {
    let _alone = ONE_AT_A_TIME.lock();
    let disk = Disk::with_room(1 << 30);
    let log = disk.log();
    let stuck = disk.stuck.lock();
    log.line(b"at hand\n");
    while !log.0.queue.lock().busy {
        std::thread::yield_now();
    }
    let extra = 100;
    let dropped = dropped_by(|| {
        let (sender, done) = mpsc::channel();
        let writer = log.clone();
        std::thread::spawn(move || {
            for number in 0..QUEUE_LINES_MAX + extra {
                writer.line(format!("{number}\n").as_bytes());
            }
            sender.send(()).unwrap();
        });
        done.recv_timeout(LIMIT).expect("logging never blocks");
    });
    assert_eq!(dropped, extra as u64);
    assert!(!log.flush(Duration::from_millis(10)), "flush waits no longer than its limit");
    drop(stuck);
    assert!(log.flush(LIMIT));
    let lines = disk.lines();
    assert_eq!(lines.len(), 1 + QUEUE_LINES_MAX + 1);
    assert!(lines.last().unwrap().contains(" 100 log lines were dropped"), "{:?}", lines.last());
}

#[test]
fn bytes_that_wait_are_bounded() {
    let _alone = ONE_AT_A_TIME.lock();
    let disk = Disk::with_room(usize::MAX);
    let log = disk.log();
    let stuck = disk.stuck.lock();
    let line = vec![b'x'; QUEUE_BYTES_MAX / 4];
    let dropped = dropped_by(|| (0..8).for_each(|_| log.line(&line)));
    assert!((3..=4).contains(&dropped), "{dropped}");
    drop(stuck);
    assert!(log.flush(LIMIT));
}

#[test]
fn a_bug_in_the_output_costs_one_line() {
    let _alone = ONE_AT_A_TIME.lock();
    let disk = Disk::with_room(1 << 20);
    let log = disk.log();
    disk.panics.store(true, Ordering::SeqCst);
    let dropped = dropped_by(|| {
        log.line(b"lost\n");
        log.line(b"kept\n");
        assert!(log.flush(LIMIT));
    });
    assert_eq!((dropped, disk.lines()), (1, vec!["kept".to_owned()]));
}

#[test]
fn a_file_is_opened_anew_for_its_owner_alone_and_one_that_cannot_be_leaves_the_old_one() {
    use std::os::unix::fs::PermissionsExt as _;
    let _alone = ONE_AT_A_TIME.lock();
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    let log = Disk::default().log();
    let say = |text: &str| {
        log.line(text.as_bytes());
        assert!(log.flush(LIMIT));
    };
    log.write_to(Some(path.clone()));
    say("one\n");
    std::fs::rename(&path, &moved).unwrap();
    say("two\n");
    log.write_to(Some(path.clone()));
    say("three\n");
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // A folder that does not exist yet.
    let later = folder.path().join("folder").join("log");
    log.write_to(Some(later.clone()));
    say("four\n");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("cannot open the log file") && text.ends_with("four\n"), "{text}");
    std::fs::create_dir(later.parent().unwrap()).unwrap();
    let deadline = Instant::now() + LIMIT;
    while !later.exists() {
        assert!(Instant::now() < deadline, "the log opens the file as soon as its folder exists");
        say("five\n");
        std::thread::sleep(Duration::from_millis(50));
    }
    say("six\n");
    assert!(std::fs::read_to_string(&later).unwrap().ends_with("six\n"));
}

#[test]
fn dropped_lines_are_reported_in_the_format_of_the_log() {
    let _alone = ONE_AT_A_TIME.lock();
    let disk = Disk::with_room(1 << 20);
    let log = Log::on(Output::to(LogFormat::Json, Box::new(disk.clone())));
    log.0.queue.lock().dropped = 7;
    log.line(b"{}\n");
    assert!(log.flush(LIMIT));
    let report: serde_json::Value = serde_json::from_str(&disk.lines()[0]).unwrap();
    assert_eq!(report["level"], "WARN");
    assert!(report["fields"]["message"].as_str().unwrap().starts_with("7 log lines were dropped"));
}
