//! Bytes as instructions: numbers, choices, and small changes to valid things.
//!
//! Every value comes from the front and there is always one: behind the end there are zeros. So any
//! bytes are instructions, and one that is changed changes little.

/// Numbers at which something changes its width, sign or meaning.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "00",
    "2",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "65537",
    "2097151",
    "2097152",
    "2097153",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "0.1",
    "1e1",
];

/// Instructions, taken from the front.
#[derive(Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Instructions from their first byte.
    pub fn new(instructions: &'a [u8]) -> Self {
        Self { rest: instructions }
    }

    /// What is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The next `n` bytes, or what is left.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next number of 8 bytes.
    pub fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let taken = self.take(8);
        bytes[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(bytes)
    }

    /// A number below `end`; 0 when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        // One byte where one is enough, so that small things are changed by short instructions.
        let n_bytes = match end {
            0 | 1 => return 0,
            2..=256 => 1,
            257..=65_536 => 2,
            _ => 3,
        };
        let number = self.take(n_bytes).iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte));
        number % end
    }

    /// One of these, of which there is at least one.
    pub fn one<'b, T: ?Sized>(&mut self, of: &'b [&'b T]) -> &'b T {
        of[self.below(of.len())]
    }

    /// Text that a fuzzer spells out: a length, and that many bytes as far as they are UTF-8.
    pub fn text(&mut self) -> String {
        let n = usize::from(self.byte() % 64);
        String::from_utf8_lossy(self.take(n)).into_owned()
    }

    /// One of `bases` with up to seven changes, or bytes from nothing. `words` are pieces that mean something
    /// where it is read.
    pub fn edited(&mut self, bases: &[&[u8]], words: &[&str]) -> Vec<u8> {
        let how = self.byte();
        if how == u8::MAX {
            return self.rest().to_vec();
        }
        let mut bytes = bases[usize::from(how >> 3) % bases.len()].to_vec();
        for _ in 0..how % 8 {
            self.change(&mut bytes, bases, words);
        }
        bytes
    }

    /// As [`Self::edited`], for text.
    pub fn edited_text(&mut self, bases: &[&str], words: &[&str]) -> String {
        let bases: Vec<&[u8]> = bases.iter().map(|base| base.as_bytes()).collect();
        String::from_utf8_lossy(&self.edited(&bases, words)).into_owned()
    }

    /// One change.
    pub fn change(&mut self, bytes: &mut Vec<u8>, bases: &[&[u8]], words: &[&str]) {
        let len = bytes.len();
        let at = self.below(len + 1);
        let some = 1 + usize::from(self.byte() % 32);
        let end = len.min(at + some);
        match some % 16 {
            0 => bytes.truncate(at),
            1 => bytes.drain(at..end).for_each(drop),
            2 => {
                let new = self.take(some).to_vec();
                bytes.splice(at..at, new).for_each(drop);
            }
            3 => {
                let copy = bytes[at..end].to_vec();
                let to = self.below(len + 1);
                bytes.splice(to..to, copy).for_each(drop);
            }
            4 | 5 if !words.is_empty() => {
                let word = self.one(words).as_bytes().to_vec();
                let end = if some < 16 { at } else { end };
                bytes.splice(at..end, word).for_each(drop);
            }
            6 | 7 => self.change_number(bytes, at),
            8 => {
                // From here on it is another one.
                let other = bases[self.below(bases.len())];
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            9 | 10 => self.change_line(bytes, at),
            11 => {
                let new = self.take(end - at);
                bytes[at..at + new.len()].copy_from_slice(new);
            }
            _ if at < len => {
                let mask = self.byte();
                bytes[at] ^= if mask == 0 { 1 } else { mask };
            }
            _ => bytes.push(self.byte()),
        }
    }

    /// Puts another number where the next one stands.
    fn change_number(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|n| at + n) else { return };
        let n = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let new = self.one(NUMBERS).as_bytes().to_vec();
        bytes.splice(start..start + n, new).for_each(drop);
    }

    /// Takes away, doubles or moves the line at `at`.
    fn change_line(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let n = bytes[start..].iter().position(|byte| *byte == b'\n').map_or(bytes.len() - start, |n| n + 1);
        let line = bytes[start..start + n].to_vec();
        let how = self.byte();
        if !how.is_multiple_of(3) {
            bytes.drain(start..start + n).for_each(drop);
        }
        if how % 3 != 1 {
            let near = self.below(bytes.len() + 1);
            let to = bytes[near..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |n| near + n + 1);
            bytes.splice(to..to, line).for_each(drop);
        }
    }
}
