//! Netlink attributes, as the kinds of [`crate::NetdevSpec`] need them: a length, a type, the bytes, padding to four.
//!
//! Writes only, in the machine's byte order; numbers that the kernel wants in network order are given so by the caller.

/// Attributes one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

/// `struct nlattr`: two 16-bit numbers.
const HEADER: usize = 4;

impl Attributes {
    /// Appends an attribute. One that is longer than its 16-bit length can say is left out, and the answer is false.
    #[must_use]
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> bool {
        let Ok(length) = u16::try_from(HEADER + value.len()) else { return false };
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(HEADER), 0);
        true
    }

    /// Appends attributes that somebody else encoded.
    pub(crate) fn append(&mut self, encoded: &[u8]) {
        self.0.extend_from_slice(encoded);
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let mut attributes = Attributes::default();
        assert!(attributes.put(7, &[1]));
        assert!(attributes.put(1, &42u32.to_ne_bytes()));
        let mut expected = Vec::new();
        expected.extend_from_slice(&5u16.to_ne_bytes());
        expected.extend_from_slice(&7u16.to_ne_bytes());
        expected.extend_from_slice(&[1, 0, 0, 0]);
        expected.extend_from_slice(&8u16.to_ne_bytes());
        expected.extend_from_slice(&1u16.to_ne_bytes());
        expected.extend_from_slice(&42u32.to_ne_bytes());
        assert_eq!(attributes.as_bytes(), expected);
        assert!(!attributes.put(1, &vec![0; 70_000]), "too long to say");
        assert_eq!(attributes.as_bytes(), expected);
    }
}
