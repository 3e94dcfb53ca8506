//! The kernel's names of counters as Prometheus writes names: `TCPSynRetrans` is `tcp_syn_retrans`.

/// Words that promtool takes for units of measurement, and does not want.
const UNITS: [&str; 14] = ["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"];

/// In snake case. A new word begins at a capital after a small letter or digit, and at the last capital of several if a
/// small letter follows, unless that is a plural's `s`; and after `TCP`, with which the kernel runs other capitals together.
/// What looks like a unit and is none stays with the word after it (`HMac` is `hmac`).
pub(crate) fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (at, &c) in chars.iter().enumerate() {
        let separates = !c.is_ascii_alphanumeric();
        let begins = separates || (at > 0 && c.is_ascii_uppercase() && begins_word(&chars, at));
        let is_unit = words.last().is_some_and(|word| UNITS.contains(&&**word));
        if begins && !is_unit && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if let (Some(word), false) = (words.last_mut(), separates) {
            word.push(c.to_ascii_lowercase());
        }
    }
    // Prometheus counts bytes, whatever the standards of SNMP call them.
    words.join("_").replace("octets", "bytes")
}

fn begins_word(chars: &[char], at: usize) -> bool {
    let before = chars[at - 1];
    if !before.is_ascii_uppercase() {
        return true;
    }
    let after_tcp = at == 3 && chars.starts_with(&['T', 'C', 'P']);
    let plural = |next: char| next == 's' && chars.get(at + 2).is_none_or(char::is_ascii_uppercase);
    after_tcp || chars.get(at + 1).is_some_and(|next| next.is_ascii_lowercase() && !plural(*next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found() {
        for (kernel, ours) in [
            ("InSegs", "in_segs"),
            ("DefaultTTL", "default_ttl"),
            ("ReasmOKs", "reasm_oks"),
            ("DelayedACKs", "delayed_acks"),
            ("DelayedACKLocked", "delayed_ack_locked"),
            ("TCPSynRetrans", "tcp_syn_retrans"),
            ("TCPDSACKOldSent", "tcp_dsack_old_sent"),
            ("TCPMD5NotFound", "tcp_md5_not_found"),
            ("TcpExt", "tcp_ext"),
            ("MPTcpExt", "mp_tcp_ext"),
            ("InNoECTPkts", "in_no_ect_pkts"),
            ("Ip6InOctets", "ip6_in_bytes"),
            ("Icmp6OutType133", "icmp6_out_type133"),
            ("UdpLite6InErrors", "udp_lite6_in_errors"),
            ("UDPLITE6", "udplite6"),
            ("TW", "tw"),
            ("odd-name", "odd_name"),
            ("MPJoinAckHMacFailure", "mp_join_ack_hmac_failure"),
            ("", ""),
        ] {
            assert_eq!(snake(kernel), ours);
        }
    }
}
