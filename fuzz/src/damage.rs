//! What is done to a good input. Each kind of damage aims at a mistake that parsers make.

use crate::{LARGEST, random::Random};

/// Numbers at the borders of what is counted with: signs, one past each width, what a float cannot hold, and no end of digits.
const NUMBERS: [&str; 24] = [
    "0",
    "-0",
    "-1",
    "1",
    "00",
    "+1",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "1e400",
    "0.000000000000000000000000000001",
];

/// Text that is more than it looks: two, three and four bytes a character, marks that combine, a change of direction, nothing
/// visible, a byte-order mark, the end of a C string, line ends, and bytes that are no UTF-8.
const TEXTS: [&[u8]; 16] = [
    "é".as_bytes(),
    "ß".as_bytes(),
    "漢".as_bytes(),
    "🜂".as_bytes(),
    "e\u{301}".as_bytes(),
    "\u{202e}".as_bytes(),
    "\u{200b}".as_bytes(),
    "\u{feff}".as_bytes(),
    b"\0",
    b"\n",
    b"\r\n",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\\u0000",
    b"\\ud800",
];

/// What parts of text are held together by.
const MARKS: [&[u8]; 20] = [
    b"{", b"}", b"[", b"]", b"\"", b"'", b":", b"::", b",", b"/", b"-", b"_", b".", b"e", b"*",
    b"=", b" ", b"0x", b"null", b"true",
];

/// A copy of one of `inputs` with one to eight damages, at most [`LARGEST`] bytes long.
pub fn damaged(inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = inputs[random.below(inputs.len())].clone();
    // Most often little: what is damaged beyond recognition is refused at its first byte.
    for _ in 0..1 << random.below(4) {
        damage(&mut input, inputs, random);
        input.truncate(LARGEST);
    }
    input
}

#[allow(clippy::too_many_lines, reason = "a table of damages")]
fn damage(input: &mut Vec<u8>, inputs: &[Vec<u8>], random: &mut Random) {
    match random.below(14) {
        // A bit, or a byte.
        0 => {
            let (at, bit) = (random.below(input.len()), random.below(8));
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        1 => {
            let (at, value) = (random.below(input.len()), random.byte());
            if let Some(byte) = input.get_mut(at) {
                *byte = value;
            }
        }
        // Something too much: random bytes, text that misleads, a mark of the grammar.
        2 => {
            let bytes: Vec<u8> = (0..=random.below(8)).map(|_| random.byte()).collect();
            insert(input, &bytes, random);
        }
        3 => insert(input, random.one_of(&TEXTS), random),
        4 => insert(input, random.one_of(&MARKS), random),
        // Something missing: a part, or the end.
        5 => {
            input.drain(random.part(input.len()));
        }
        6 => input.truncate(random.below(input.len() + 1)),
        // A part twice, or very often.
        7 => {
            let part = input[random.part(input.len())].to_vec();
            let times = 1 << random.below(8);
            let most = LARGEST / part.len().max(1);
            insert(input, &part.repeat(times.min(most)), random);
        }
        // A part of another input, in place of one of this.
        8 => {
            let other = &inputs[random.below(inputs.len())];
            let part = other[random.part(other.len())].to_vec();
            input.splice(random.part(input.len()), part);
        }
        // Two parts change places.
        9 => {
            let part: Vec<u8> = input.drain(random.part(input.len())).collect();
            insert(input, &part, random);
        }
        // A number in digits becomes another.
        10 => {
            if let Some(digits) = digits(input, random) {
                input.splice(digits, random.one_of(&NUMBERS).bytes());
            }
        }
        // A number with no end of digits.
        11 => {
            if let Some(digits) = digits(input, random) {
                let many = vec![b'0' + random.byte() % 10; 1 << random.below(12)];
                input.splice(digits, many);
            }
        }
        // A number in binary: all ones, the highest or the lowest bit, or zero, in 1, 2, 4, 8 or 32 bytes.
        12 => {
            let width = *random.one_of(&[&1_usize, &2, &4, &8, &32]);
            let at = random.below(input.len());
            let fill = if random.below(2) == 0 { 0xff } else { 0 };
            let edge = *random.one_of(&[&0_u8, &0x80, &1]);
            let end = input.len().min(at + width);
            if let Some(number) = input.get_mut(at..end) {
                number.fill(fill);
                if let Some(byte) = number.first_mut().filter(|_| edge == 0x80) {
                    *byte ^= edge;
                }
                if let Some(byte) = number.last_mut().filter(|_| edge == 1) {
                    *byte ^= edge;
                }
            }
        }
        // Brackets in brackets.
        _ => {
            let (open, close) = *random.one_of(&[&("[", "]"), &("{\"a\":", "}"), &("(", ")")]);
            let depth = 1 << random.below(12);
            let part = random.part(input.len());
            let (begin, end) = (part.start, part.end);
            input.splice(end..end, close.repeat(depth).into_bytes());
            input.splice(begin..begin, open.repeat(depth).into_bytes());
        }
    }
}

fn insert(input: &mut Vec<u8>, bytes: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    input.splice(at..at, bytes.iter().copied());
}

/// One of the runs of decimal digits.
fn digits(input: &[u8], random: &mut Random) -> Option<std::ops::Range<usize>> {
    let is_digit = |at: usize| input.get(at).is_some_and(u8::is_ascii_digit);
    let begins: Vec<usize> = (0..input.len())
        .filter(|at| is_digit(*at) && (*at == 0 || !is_digit(at - 1)))
        .collect();
    let begin = *begins.get(random.below(begins.len()))?;
    let end = (begin..input.len())
        .find(|at| !is_digit(*at))
        .unwrap_or(input.len());
    Some(begin..end)
}
