//! The scripts of lua/, assembled from their fragments.

use std::sync::LazyLock;

use redis::Cmd;

pub(crate) struct Script {
    /// Name of its file without the extension, and the `operation` in metrics and errors.
    pub(crate) name: &'static str,
    pub(super) source: String,
    pub(super) sha1: String,
}

/// The files of lua/fragments. The FRAGMENTS lines of a script's header name the fragments it uses, in order.
/// `.ci/assemble-lua` assembles scripts in the same way for the linter.
macro_rules! fragments {
    ($($name:literal)*) => {
        const FRAGMENTS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../../lua/fragments/", $name, ".lua")))),*];
    };
}

fragments! {
    "algorithms" "basics" "budget" "codec" "concurrency" "corrections" "counters" "counts" "edges" "expiry" "filler" "fixed_window"
    "given_time" "held_list" "lease_changes" "leases" "moves" "order" "other_kind" "other_types" "pool_keys" "prepaid" "reservations" "rosters" "running" "sliding_window" "token_bucket" "window"
}

macro_rules! scripts {
    ($($id:ident = $name:literal;)*) => {
        $(pub(crate) static $id: LazyLock<Script> = LazyLock::new(|| {
            Script::assemble($name, include_str!(concat!("../../../../lua/", $name, ".lua")))
        });)*

        #[cfg(test)]
        const ALL: &[&LazyLock<Script>] = &[$(&$id),*];
    };
}

scripts! {
    COMMIT = "commit";
    COMMIT_ORDERED = "commit_ordered";
    ORDER = "order";
    KEEP_ALIVE = "keep_alive";
    HOLD = "hold";
    DROP = "drop";
    REAP = "reap";
    TABLE = "table";
    CLAIM = "claim";
    TICKET_KEYS = "ticket_keys";
    PLACEMENTS = "placements";
    PROBE = "probe";
    RECOUNT = "recount";
    QUOTA = "quota";
    VERSIONED = "versioned";
    CHANGE = "change";
    COUNT = "count";
    WINDOWS = "windows";
    ONE_WINDOW = "one_window";
    RENEW = "renew";
    USAGE_DAY = "usage_day";
    USAGE_SESSIONS = "usage_sessions";
    USAGE_FORGET = "usage_forget";
    REPORT = "report";
    APPEND = "append";
}

impl Script {
    fn assemble(name: &'static str, main: &str) -> Self {
        let mut source = String::new();
        for fragment in named_fragments(main) {
            let text = FRAGMENTS.iter().find(|(name, _)| *name == fragment).map_or("", |(_, text)| text);
            source.push_str(text);
            source.push('\n');
        }
        source.push_str(main);
        let sha1 = redis::Script::new(&source).get_hash().to_owned();
        Self { name, source, sha1 }
    }
}

/// Returns the fragments that a script's header names.
fn named_fragments(main: &str) -> impl Iterator<Item = &str> {
    main.lines().filter_map(|line| line.strip_prefix("-- FRAGMENTS ")).flat_map(str::split_whitespace)
}

/// Returns a call of the script `probe` that does not depend on whether Redis has the script.
pub(super) fn probe_command(key: &str) -> Cmd {
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(&PROBE.source).arg(1).arg(key);
    cmd
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a misspelt fragment that only Redis would notice.
    #[test]
    fn scripts_name_fragments_that_exist() {
        for script in ALL {
            let source = &script.source;
            for name in named_fragments(source) {
                assert!(FRAGMENTS.iter().any(|(known, _)| *known == name), "{}: {name}", script.name);
                assert!(source.contains(&format!("-- {name}: ")), "{}: {name}", script.name);
            }
        }
    }
}
