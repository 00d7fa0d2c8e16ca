//! Bytes that are written once and then read once, in flat memory and without leaving plaintext on a
//! disk: beyond one block they lie in a file without a name, sealed under a key that is never written.

use crate::error::{Error, IoContext, Result};
use crate::stream::{ByteSource, SourceInfo};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;

/// Plaintext of one sealed block.
const BLOCK_BYTES: usize = 256 * 1024;
/// Bytes that sealing adds.
const TAG_BYTES: usize = 16;

/// The writable half.
pub(super) struct Spool {
    dir: PathBuf,
    sealed: Option<(File, LessSafeKey)>,
    blocks: u64,
    block: Vec<u8>,
    len: u64,
}

impl Spool {
    /// A spool whose file, if it needs one, is made in `dir`.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, sealed: None, blocks: 0, block: Vec::new(), len: 0 }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.len = self.len.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        while !bytes.is_empty() {
            let n = bytes.len().min(BLOCK_BYTES - self.block.len());
            self.block.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.block.len() == BLOCK_BYTES {
                self.seal_block()?;
            }
        }
        Ok(())
    }

    fn seal_block(&mut self) -> Result<()> {
        let dir = &self.dir;
        if self.sealed.is_none() {
            let file = tempfile::tempfile_in(dir).doing(|| format!("make a temporary file in {dir:?}"))?;
            let mut key = [0; 32];
            getrandom::fill(&mut key)
                .map_err(|e| Error::failed("could not get random bytes for a temporary file").because(e.to_string()))?;
            let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| Error::failed("could not make a key"))?;
            self.sealed = Some((file, LessSafeKey::new(key)));
        }
        let Some((file, key)) = &mut self.sealed else { return Err(Error::failed("could not spool an index")) };
        key.seal_in_place_append_tag(nonce(self.blocks), Aad::empty(), &mut self.block)
            .map_err(|_| Error::failed("could not seal a block of a temporary file"))?;
        file.write_all(&self.block).doing(|| format!("write a temporary file in {dir:?}"))?;
        self.blocks += 1;
        self.block.clear();
        Ok(())
    }

    /// The readable half, from the first byte.
    pub(super) fn read_back(mut self) -> Result<SpoolSource> {
        if let Some((file, _)) = &mut self.sealed {
            file.rewind().doing(|| format!("read a temporary file in {:?}", self.dir))?;
        }
        Ok(SpoolSource { n_blocks: self.blocks, next: 0, spool: self, at: 0, now: Vec::new() })
    }
}

/// The readable half.
pub(super) struct SpoolSource {
    spool: Spool,
    n_blocks: u64,
    next: u64,
    now: Vec<u8>,
    at: usize,
}

impl ByteSource for SpoolSource {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { len: Some(self.spool.len), attributes: Vec::new() })
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.at == self.now.len() {
            self.at = 0;
            match &mut self.spool.sealed {
                Some((file, key)) if self.next < self.n_blocks => {
                    self.now.resize(BLOCK_BYTES + TAG_BYTES, 0);
                    file.read_exact(&mut self.now)
                        .doing(|| format!("read a temporary file in {:?}", self.spool.dir))?;
                    key.open_in_place(nonce(self.next), Aad::empty(), &mut self.now)
                        .map_err(|_| Error::damaged("a temporary file was changed by somebody else"))?;
                    self.now.truncate(BLOCK_BYTES);
                    self.next += 1;
                }
                _ => self.now = std::mem::take(&mut self.spool.block),
            }
        }
        let n = buf.len().min(self.now.len() - self.at);
        buf[..n].copy_from_slice(&self.now[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Every block has its own; the key is used for one file only.
fn nonce(block: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&block.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spooled_comes_back_whatever_its_length() {
        for len in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 77] {
            let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let mut spool = Spool::new(std::env::temp_dir());
            bytes.chunks(1_000).for_each(|chunk| spool.push(chunk).unwrap());
            let mut source = spool.read_back().unwrap();
            let mut back = Vec::new();
            while let Some(chunk) = source.next_chunk().unwrap() {
                back.extend_from_slice(&chunk);
            }
            assert!(back == bytes, "{len}");
        }
    }
}
