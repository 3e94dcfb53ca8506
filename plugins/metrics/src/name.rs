//! The kernel's names of counters as Prometheus writes names: `TCPSynRetrans` is `tcp_syn_retrans`.

/// In snake case. A new word begins at a capital after a small letter or digit, and at the last capital of several if a
/// small letter follows, unless that is a plural's `s`; and after `TCP`, with which the kernel runs other capitals together.
pub(crate) fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut snake = String::with_capacity(name.len() + 8);
    for (at, &c) in chars.iter().enumerate() {
        if at > 0 && c.is_ascii_uppercase() && begins_word(&chars, at) && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.push(if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    }
    // Prometheus counts bytes, whatever the standards of SNMP call them.
    snake.replace("octets", "bytes")
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
            ("", ""),
        ] {
            assert_eq!(snake(kernel), ours);
        }
    }
}
