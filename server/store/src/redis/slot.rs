//! Hash slots of Redis Cluster. Keys with the same hash tag are in the same slot.

use redis::{Arg, Cmd};

/// Number of hash slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Returns the slot of a key: of its hash tag, if it has one that is not empty.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|byte| *byte == b'}').filter(|length| *length > 0).map(|length| &rest[..length])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// Returns the slot of a command's first key. `None` for a command without keys, which any node can answer.
pub(super) fn slot_of_command(cmd: &Cmd) -> Option<u16> {
    let mut args = cmd.args_iter().map(|arg| match arg {
        Arg::Simple(bytes) => bytes,
        _ => &[],
    });
    match args.next()? {
        b"EVAL" | b"EVALSHA" => args.nth(2).map(slot_of),
        b"INFO" | b"CLUSTER" | b"PING" | b"ROLE" => None,
        _ => args.next().map(slot_of),
    }
}

/// Computes CRC16 in the variant of Redis Cluster (XMODEM).
fn crc16(bytes: &[u8]) -> u16 {
    const POLYNOMIAL: u16 = 0x1021;
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ POLYNOMIAL }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As CLUSTER KEYSLOT returns them.
        assert_eq!(slot_of(b"somekey"), 11_058);
        assert_eq!(slot_of(b"foo{hash_tag}"), 2515);
        assert_eq!(slot_of(b"{foo}bar"), slot_of(b"foo"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
    }

    #[test]
    fn the_first_key_of_a_command_decides() {
        let mut script = redis::cmd("EVALSHA");
        script.arg("sha").arg(2).arg("{a}1").arg("{a}2").arg("argument");
        assert_eq!(slot_of_command(&script), Some(slot_of(b"a")));
        assert_eq!(slot_of_command(redis::cmd("HGET").arg("key").arg("field")), Some(slot_of(b"key")));
        assert_eq!(slot_of_command(redis::cmd("INFO").arg("memory")), None);
    }
}
