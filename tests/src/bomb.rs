//! A component that is a bomb for whoever compiles it.

/// `component` with a module that takes minutes to compile: many large functions, whose every variable
/// lives through all of them.
pub fn in_component(component: Vec<u8>) -> Vec<u8> {
    use std::iter::repeat_n;
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
    let long = |bytes: &[u8]| {
        [number(u32::try_from(bytes.len()).expect("a module is far smaller than 4 GiB")), bytes.to_vec()].concat()
    };
    let section = |id: u8, bytes: &[u8]| [vec![id], long(bytes)].concat();
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
    let module = [b"\0asm\x01\0\0\0".to_vec(), types, functions, code].concat();
    [component, section(1, &module)].concat()
}
