//! A level that follows what a transfer waits for, in a whole transfer.

use super::*;
use crate::stream::level;

/// Lines of a dump, until the level has become `until`; whether it did by then.
struct Until {
    budget: Arc<Budget>,
    until: i32,
    left_bytes: usize,
    text: Vec<u8>,
    reached: Arc<Mutex<bool>>,
}

impl ByteSource for Until {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo::default())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.budget.level().get() == self.until {
            *self.reached.lock().unwrap() = true;
        }
        if *self.reached.lock().unwrap() || self.left_bytes == 0 {
            return Ok(0);
        }
        let n = buffer.len().min(self.text.len()).min(self.left_bytes);
        buffer[..n].copy_from_slice(&self.text[..n]);
        self.left_bytes -= n;
        Ok(n)
    }
}

/// Segments that take their time for every part.
struct Slow(MemorySegments, Duration);

struct SlowWrite(Arc<dyn SegmentWrite>, Duration);

#[async_trait]
impl Segments for Slow {
    async fn begin(&self, number: u32) -> Result<Arc<dyn SegmentWrite>> {
        Ok(Arc::new(SlowWrite(self.0.begin(number).await?, self.1)))
    }
}

#[async_trait]
impl SegmentWrite for SlowWrite {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64, is_only: bool) -> Result<()> {
        tokio::time::sleep(self.1).await;
        self.0.part(number, body, crc64nvme, is_only).await
    }

    async fn complete(&self, n_parts: u32, stored_bytes: u64, crc64nvme: u64) -> Result<()> {
        self.0.complete(n_parts, stored_bytes, crc64nvme).await
    }

    async fn abort(&self) -> Result<()> {
        self.0.abort().await
    }
}

/// Stores lines behind parts that take this long until the level is `until`: it gets there, and what was stored
/// with all those levels is read back.
#[track_caller]
fn check_gets_to(until: i32, part: Duration) {
    let kit = Kit::new();
    let reached = Arc::new(Mutex::new(false));
    let text = text(FRAME_BYTES);
    let source =
        Until { budget: kit.budget.clone(), until, left_bytes: 1 << 30, text: text.clone(), reached: reached.clone() };
    let memory = MemorySegments::default();
    let options = WriteOptions { compression: Compression::Auto, ..options() };
    let name = options.name.clone();
    let segments = Arc::new(Slow(memory.clone(), part));
    let stored = kit.write_to(segments, Source::new(Origin::Plugin, source), options).unwrap();
    assert!(*reached.lock().unwrap(), "level {} after {} bytes", kit.budget.level().get(), stored.size);
    let record = record_of(name, stored);
    let back = kit.read(&record, &memory, None).unwrap();
    assert_eq!(back.len() as u64, record.size);
    assert!(back.chunks(FRAME_BYTES).all(|frame| frame == &text[..frame.len()]));
    assert_eq!(kit.budget.in_use(), InUse { frame_buffers: 0, parts: 0 });
}

#[test]
fn behind_a_slow_store_the_level_rises_to_the_highest() {
    // A part of 256 KiB in a second: no processor is as slow.
    check_gets_to(*level::RANGE.end(), Duration::from_millis(500));
}

#[test]
fn behind_a_fast_store_the_level_falls_to_the_lowest() {
    check_gets_to(*level::RANGE.start(), Duration::ZERO);
}
