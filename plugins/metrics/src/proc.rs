//! The formats of the counters in `/proc/net`, taken apart without judging what the counters are.
//!
//! Files of other kernels have other lines and columns: what does not fit is passed over, the rest counts.

/// `snmp` and `netstat`: lines in pairs, the names and then the values of one protocol. Gives the protocol and both.
pub(crate) fn pairs<'a>(text: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8], &'a [u8])) {
    let mut head: Option<(&[u8], &[u8])> = None;
    for line in text.split(|byte| *byte == b'\n') {
        let Some((protocol, rest)) = split_at(line, b':') else { continue };
        match head.take() {
            Some((named, names)) if named == protocol => each(protocol, names, rest),
            // No values came for the line before, so this one has the names.
            _ => head = Some((protocol, rest)),
        }
    }
}

/// `snmp6`: a name and a value in each line.
pub(crate) fn list<'a>(text: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8])) {
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = words(line);
        if let (Some(name), Some(value)) = (words.next(), words.next()) {
            each(name, value);
        }
    }
}

/// `sockstat` and `sockstat6`: a protocol in each line, and then names and values in turns.
pub(crate) fn sockets<'a>(text: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8], &'a [u8])) {
    for line in text.split(|byte| *byte == b'\n') {
        let Some((protocol, rest)) = split_at(line, b':') else { continue };
        let mut words = words(rest);
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            each(protocol, name, value);
        }
    }
}

/// `stat/nf_conntrack`: names in the first line, then a line for each processor with hexadecimal values. Gives the sum over
/// the processors, but for `entries`, which every line has the same.
pub(crate) fn per_cpu<'a>(text: &'a [u8], mut each: impl FnMut(&'a [u8], u64)) {
    let mut lines = text.split(|byte| *byte == b'\n');
    let names: Vec<&[u8]> = words(lines.next().unwrap_or_default()).collect();
    let mut sums = vec![None; names.len()];
    for (line, at_first) in
        lines.filter(|line| !line.is_empty()).zip(std::iter::once(true).chain(std::iter::repeat(false)))
    {
        for ((value, sum), name) in words(line).zip(&mut sums).zip(&names) {
            let Some(value) = hexadecimal(value) else { continue };
            if at_first || *name != b"entries" {
                *sum = Some(sum.unwrap_or(0u64).wrapping_add(value));
            }
        }
    }
    names.iter().zip(sums).for_each(|(name, sum)| sum.into_iter().for_each(|sum| each(name, sum)));
}

/// A decimal number as the text that it is. Nothing is computed with it, so none is too large.
pub(crate) fn is_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
}

pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty())
}

fn split_at(line: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = line.iter().position(|byte| *byte == at)?;
    Some((&line[..place], &line[place + 1..]))
}

fn hexadecimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn str(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn read_pairs(text: &str) -> Vec<[String; 3]> {
        let mut read = Vec::new();
        pairs(text.as_bytes(), |protocol, names, values| read.push([protocol, names, values].map(str)));
        read
    }

    #[test]
    fn names_and_values_come_in_pairs() {
        let text = "Ip: A B\nIp: 1 2\nTcp: C\nTcp: -1\n";
        assert_eq!(read_pairs(text), [["Ip", " A B", " 1 2"], ["Tcp", " C", " -1"]]);
        let odd = "garbage\n\nIp: A\nTcp: B\nTcp: 2\nUdp: C\n";
        assert_eq!(read_pairs(odd), [["Tcp", " B", " 2"]], "what has no values is passed over");
    }

    #[test]
    fn lines_without_a_value_are_passed_over() {
        let mut read = Vec::new();
        let text = b"Ip6InReceives                   \t12\nIp6Odd\n\nIcmp6InType128\t3 4\n";
        list(text, |name, value| read.push([name, value].map(str)));
        assert_eq!(read, [["Ip6InReceives", "12"], ["Icmp6InType128", "3"]]);
    }

    #[test]
    fn sockets_are_by_protocol() {
        let mut read = Vec::new();
        let text = b"sockets: used 5\nTCP: inuse 0 orphan 1 new\nFRAG: inuse 0 memory 2\nnothing\n";
        sockets(text, |protocol, name, value| read.push([protocol, name, value].map(str)));
        let expected = [
            ["sockets", "used", "5"],
            ["TCP", "inuse", "0"],
            ["TCP", "orphan", "1"],
            ["FRAG", "inuse", "0"],
            ["FRAG", "memory", "2"],
        ];
        assert_eq!(read, expected);
    }

    fn read_cpus(text: &str) -> Vec<(String, u64)> {
        let mut read = Vec::new();
        per_cpu(text.as_bytes(), |name, sum| read.push((str(name), sum)));
        read
    }

    #[test]
    fn processors_are_added_up_but_not_the_entries() {
        let text = "entries  clashres found\n00000010  00000001 0000000a\n00000010  00000002 0000000b\n";
        let expected = [("entries", 16), ("clashres", 3), ("found", 21)];
        assert_eq!(read_cpus(text), expected.map(|(name, sum)| (name.to_owned(), sum)));
        let short = "entries found more\n00000001 0000000f\n00000001\n00000001 zz\n";
        assert_eq!(read_cpus(short), [("entries", 1), ("found", 15)].map(|(name, sum)| (name.to_owned(), sum)));
        assert_eq!(read_cpus("entries found\n"), []);
        assert_eq!(read_cpus(""), []);
    }

    #[test]
    fn numbers_are_decimal() {
        for (text, is) in [("0", true), ("-1", true), ("18446744073709551615", true), ("", false), ("-", false)] {
            assert_eq!(is_number(text.as_bytes()), is, "{text}");
        }
        for text in ["1.5", "0x1", "1e3", "+1", "NaN", "184467440737095516150"] {
            assert!(!is_number(text.as_bytes()), "{text}");
        }
    }
}
