//! The spool's folder: segments that are only appended to, a mark of how far they are delivered, and a lock.
//!
//! Blocking; runs on the spool's own thread. After a kill at any point: every entry whose append was answered is there, what was
//! being written is a torn tail at most, and what was delivered may be delivered once more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::frame::{self, Entry, Found};
use super::index::{Index, Undelivered};

/// A segment is closed once it is this large.
const SEGMENT_BYTES: u64 = 8 << 20;
/// What the names of segments end with.
const SUFFIX: &str = ".spool";
/// Segment and byte up to which everything is delivered.
const DELIVERED: &str = "delivered";
/// Entries that the log refuses for good.
const SET_ASIDE: &str = "set-aside";

/// What was found when a folder was opened.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// Entries that wait, oldest first.
    pub(crate) waiting: usize,
    /// Bytes that are no whole entry.
    pub(crate) torn_bytes: u64,
}

/// The segment that is appended to.
#[derive(Debug)]
struct Active {
    number: u64,
    file: File,
    durable_bytes: u64,
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    active: Option<Active>,
    next_segment: u64,
    /// Held for as long as this lives.
    _lock: File,
}

impl Disk {
    /// Opens (or makes) a folder; fills `index`, and shows each entry that waits, oldest first.
    pub(crate) fn open(folder: &Path, index: &mut Index, mut show: impl FnMut(&Entry)) -> io::Result<(Self, Opened)> {
        fs::create_dir_all(folder)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::other(format!("{} is in use by another process", folder.display())))?;
        let delivered = read_mark(&folder.join(DELIVERED));
        let mut numbers = Vec::new();
        for file in fs::read_dir(folder)? {
            let name = file?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).and_then(|number| number.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        let mut disk = Self { folder: folder.to_owned(), active: None, next_segment: 0, _lock: lock };
        disk.next_segment = numbers.last().map_or(0, |last| last + 1).max(delivered.0 + 1);
        let mut opened = Opened::default();
        for number in numbers {
            let bytes = fs::read(disk.path(number))?;
            let from = match number.cmp(&delivered.0) {
                std::cmp::Ordering::Less => bytes.len(),
                std::cmp::Ordering::Equal => usize::try_from(delivered.1).unwrap_or(usize::MAX).min(bytes.len()),
                std::cmp::Ordering::Greater => 0,
            };
            let mut at = from;
            let mut waiting = 0;
            loop {
                match frame::next(&bytes[at..]) {
                    Found::Entry(entry, length) => {
                        show(&entry);
                        index.add(&entry);
                        waiting += 1;
                        at += length;
                    }
                    Found::Damage(length) => {
                        opened.torn_bytes += length as u64;
                        at += length;
                    }
                    Found::End => break,
                }
            }
            if waiting == 0 {
                fs::remove_file(disk.path(number))?;
            } else {
                index.add_segment(number, bytes.len() as u64, from as u64);
            }
            opened.waiting += waiting;
        }
        Ok((disk, opened))
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{segment:020}{SUFFIX}"))
    }

    /// Appends frames durably to the segment that is answered. After an error nothing of them counts.
    pub(crate) fn append(&mut self, frames: &[u8]) -> io::Result<u64> {
        let mut active = match self.active.take() {
            Some(active) if active.durable_bytes < SEGMENT_BYTES => active,
            _ => self.begin_segment()?,
        };
        if let Err(error) = active.file.write_all(frames).and_then(|()| active.file.sync_data()) {
            // What the append left behind is cut off, as far as that works; the segment is not written to again either way.
            let _ = active.file.set_len(active.durable_bytes);
            return Err(error);
        }
        active.durable_bytes += frames.len() as u64;
        let number = active.number;
        self.active = Some(active);
        Ok(number)
    }

    fn begin_segment(&mut self) -> io::Result<Active> {
        let number = self.next_segment;
        self.next_segment += 1;
        let file = OpenOptions::new().create_new(true).append(true).open(self.path(number))?;
        self.sync_folder()?;
        Ok(Active { number, file, durable_bytes: 0 })
    }

    /// Notes how far everything is delivered. Not made durable: an older note only means delivering again.
    pub(crate) fn mark(&self, segment: u64, up_to: u64) -> io::Result<()> {
        let mut note = Vec::with_capacity(20);
        note.extend_from_slice(&segment.to_be_bytes());
        note.extend_from_slice(&up_to.to_be_bytes());
        note.extend_from_slice(&crc32fast::hash(&note).to_be_bytes());
        let fresh = self.folder.join("delivered.new");
        fs::write(&fresh, note)?;
        fs::rename(fresh, self.folder.join(DELIVERED))
    }

    /// Deletes a segment of which nothing waits.
    pub(crate) fn delete(&mut self, segment: u64) -> io::Result<()> {
        if self.active.as_ref().is_some_and(|active| active.number == segment) {
            self.active = None;
        }
        fs::remove_file(self.path(segment))
    }

    /// Keeps an entry that the log refuses for good where an operator finds it.
    pub(crate) fn set_aside(&self, entry: &Entry) -> io::Result<()> {
        let mut frame = Vec::new();
        entry.write(&mut frame);
        let mut file = OpenOptions::new().create(true).append(true).open(self.folder.join(SET_ASIDE))?;
        file.write_all(&frame)?;
        file.sync_data()?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// Reads entries from the start of what is undelivered: at most `max_entries`, and about `max_bytes`. With each, where it ends.
pub(crate) fn read(
    folder: &Path,
    what: Undelivered,
    max_entries: usize,
    max_bytes: usize,
) -> io::Result<Vec<(Option<Entry>, u64)>> {
    let mut file = File::open(folder.join(format!("{:020}{SUFFIX}", what.segment)))?;
    file.seek(SeekFrom::Start(what.from))?;
    let available = what.to.saturating_sub(what.from);
    let mut wanted = available.min(max_bytes as u64);
    loop {
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(usize::MAX)];
        file.seek(SeekFrom::Start(what.from))?;
        file.read_exact(&mut bytes)?;
        let mut entries = Vec::new();
        let mut at = 0;
        while entries.len() < max_entries {
            match frame::next(&bytes[at..]) {
                Found::Entry(entry, length) => {
                    at += length;
                    entries.push((Some(*entry), what.from + at as u64));
                }
                // Damage at the end may be an entry that was read half.
                Found::Damage(length) if at + length < bytes.len() || wanted == available => {
                    at += length;
                    entries.push((None, what.from + at as u64));
                }
                Found::Damage(_) | Found::End => break,
            }
        }
        if !entries.is_empty() || wanted == available {
            return Ok(entries);
        }
        wanted = available;
    }
}

/// Whether an entry of this key (of any, without one) waits in a folder that may be another process's. What is being written counts once
/// it is whole, and what goes away meanwhile is delivered.
pub(crate) fn holds(folder: &Path, key: Option<&[u8]>) -> io::Result<bool> {
    let gone_is_none = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
    let files = match fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) => return gone_is_none(error).map(|()| false),
    };
    let (delivered, up_to) = read_mark(&folder.join(DELIVERED));
    for file in files {
        let file = file?;
        let number = file.file_name().to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse::<u64>().ok());
        let Some(number) = number.filter(|number| *number >= delivered) else { continue };
        let bytes = match fs::read(file.path()) {
            Ok(bytes) => bytes,
            Err(error) => {
                gone_is_none(error)?;
                continue;
            }
        };
        let mut at = if number == delivered { usize::try_from(up_to).unwrap_or(usize::MAX).min(bytes.len()) } else { 0 };
        loop {
            match frame::next(&bytes[at..]) {
                Found::Entry(entry, _) if key.is_none_or(|key| entry.key == key) => return Ok(true),
                Found::Entry(_, length) | Found::Damage(length) => at += length,
                Found::End => break,
            }
        }
    }
    Ok(false)
}

fn read_mark(path: &Path) -> (u64, u64) {
    let read = || {
        let note = fs::read(path).ok()?;
        let (segment, rest) = note.split_first_chunk::<8>()?;
        let (up_to, crc) = rest.split_first_chunk::<8>()?;
        (crc == crc32fast::hash(&note[..16]).to_be_bytes()).then(|| (u64::from_be_bytes(*segment), u64::from_be_bytes(*up_to)))
    };
    read().unwrap_or((0, 0))
}
