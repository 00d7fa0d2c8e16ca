//! Components that are bombs: for whoever compiles them, and for whoever runs them.

/// How every core module begins.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// Numbers of the sections of a component that hold a core module, and core instances.
const CORE_MODULE: u8 = 1;
const CORE_INSTANCE: u8 = 2;
/// Bytes that every component begins with.
const HEADER_BYTES: usize = 8;

/// A number as WebAssembly writes it: seven bits in a byte, the least first.
fn number(mut n: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (n & 0x7f) as u8;
        n >>= 7;
        bytes.push(if n == 0 { low } else { low | 0x80 });
        if n == 0 {
            return bytes;
        }
    }
}

/// Bytes behind their length.
fn long(bytes: &[u8]) -> Vec<u8> {
    [number(u32::try_from(bytes.len()).expect("a module is far smaller than 4 GiB")), bytes.to_vec()].concat()
}

fn section(id: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![id], long(bytes)].concat()
}

/// How many core modules lie in a component itself.
fn n_modules(component: &[u8]) -> u32 {
    let (mut at, mut n) = (HEADER_BYTES, 0);
    while at < component.len() {
        n += u32::from(component[at] == CORE_MODULE);
        at += 1;
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = component[at];
            length |= usize::from(byte & 0x7f) << shift;
            at += 1;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        at += length;
    }
    n
}

/// `component` with an instance beside its own that makes a table larger, a thousand elements at a time, until it
/// cannot; and then stops.
pub fn growing_table(component: &[u8]) -> Vec<u8> {
    let types = section(1, &[1, 0x60, 0, 0]);
    let functions = section(3, &[1, 0]);
    // One element to begin with, and no most.
    let table = section(4, &[1, 0x70, 0x00, 1]);
    let start = section(8, &[0]);
    let grow = [0xd0, 0x70, 0x41, 0xe8, 0x07, 0xfc, 0x0f, 0x00];
    let or_stop = [0x41, 0x7f, 0x46, 0x04, 0x40, 0x00, 0x0b];
    let body = [&[0, 0x03, 0x40], &grow[..], &or_stop, &[0x0c, 0x00, 0x0b, 0x0b]].concat();
    let code = section(10, &[vec![1], long(&body)].concat());
    let module = [MODULE.to_vec(), types, functions, table, start, code].concat();
    let instance = [vec![1, 0x00], number(n_modules(component)), vec![0]].concat();
    [component.to_vec(), section(CORE_MODULE, &module), section(CORE_INSTANCE, &instance)].concat()
}

/// `component` with a module that takes minutes to compile: many large functions, whose every variable
/// lives through all of them.
pub fn in_component(component: Vec<u8>) -> Vec<u8> {
    use std::iter::repeat_n;
    const N_VARIABLES: u32 = 1500;
    const N_FUNCTIONS: u32 = 200;
    let mut body = vec![0x03, 0x40];
    for n in 1..N_VARIABLES {
        let (a, b) = (number(n), number(n * 7 % N_VARIABLES));
        body.extend([&[0x20][..], &a, &[0x20], &b, &[0x6a, 0x21], &a].concat());
        if n % 10 == 0 {
            let (c, d) = (number(n * 13 % N_VARIABLES), number(n * 5 % N_VARIABLES));
            body.extend([&[0x20, 0x00, 0x04, 0x40, 0x20][..], &c, &[0x21], &d, &[0x0b]].concat());
        }
    }
    body.extend([0x20, 0x00, 0x0d, 0x00, 0x0b]);
    let variables = [vec![1], number(N_VARIABLES), vec![0x7f]].concat();
    let body: Vec<u8> = variables.into_iter().chain(repeat_n(body, 4).flatten()).chain([0x20, 0x01, 0x0b]).collect();
    let body = long(&body);
    let count = number(N_FUNCTIONS);
    let types = section(1, &[1, 0x60, 1, 0x7f, 1, 0x7f]);
    let functions = section(3, &[count.clone(), vec![0; N_FUNCTIONS as usize]].concat());
    let code = section(10, &[count, repeat_n(body, N_FUNCTIONS as usize).flatten().collect()].concat());
    let module = [MODULE.to_vec(), types, functions, code].concat();
    [component, section(CORE_MODULE, &module)].concat()
}
