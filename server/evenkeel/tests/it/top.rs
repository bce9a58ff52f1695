//! Runs `evenkeel top` in a real terminal, against a real sidecar.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::support::{
    admin::{ADMIN, TOKEN},
    command::{PROGRAM, evenkeel, prints},
    sidecar::{Alive, Sidecar},
    tmux::{PROMPT, Tmux},
};

const POOLS: &str = "
keep_alive_interval: 4s
pools:
- {cluster: llm, cap: 8, endpoints: [{address: 'a:1'}, {address: 'b:1'}, {address: 'c:1', cap: 4}]}
- {cluster: small, cap: 2, endpoints: [{address: 'd:1'}]}
";

/// Starts a sidecar that `top` reaches through a socket. The path of the socket stays the same after a restart.
async fn start(tmux: &Tmux, yaml: &str) -> (Sidecar, String) {
    let socket = tmux.path().join("ek.sock").display().to_string();
    let listen = format!("listen: {{grpc: '127.0.0.1:0', http: '127.0.0.1:0', grpc_socket: '{socket}'}}");
    let sidecar = Sidecar::start_at(&format!("{listen}{yaml}")).await;
    (sidecar, format!("unix:{socket}"))
}

/// Takes leases with these numbers, and keeps them alive.
async fn hold(
    sidecar: &Sidecar,
    leases: &mut BTreeMap<u64, String>,
    numbers: std::ops::RangeInclusive<u64>,
) -> Alive {
    for lease in numbers {
        leases.insert(lease, sidecar.lease("llm", "h", lease).await.to_string());
    }
    let held: Vec<_> = leases.iter().map(|(lease, endpoint)| (*lease, Some(&**endpoint))).collect();
    sidecar.alive("llm", "h", &held)
}

/// Returns the words of the line that starts with `name`.
fn row<'a>(screen: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let line = screen.lines().map(str::trim_start).find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().collect())
}

/// Returns the number in a column of the line that starts with `name`.
fn number(screen: &str, name: &str, column: usize) -> Option<u64> {
    row(screen, name)?.get(column)?.parse().ok()
}

fn top(url: &str, pid_file: &str) -> String {
    // `exec` replaces the shell with the program, so the pid in the file is the program's.
    format!("clear; sh -c 'echo $$ > {pid_file}; exec {PROGRAM} top --server {url}'; echo \"ended $?\"")
}

/// Waits for the shell, and checks that its terminal has its former settings again.
async fn is_restored(tmux: &Tmux) {
    tmux.shows("the shell is back", |screen| screen.contains("ended 0") && screen.contains(PROMPT)).await;
    assert!(!tmux.is_taken(), "the other screen is left");
    tmux.types("clear; stty -a");
    let stty = tmux.shows("stty prints", |screen| screen.contains("icanon") && screen.contains("echo")).await;
    let words: Vec<&str> = stty.split_whitespace().collect();
    assert!(words.contains(&"icanon") && words.contains(&"echo") && words.contains(&"isig"), "{stty}");
}

#[tokio::test]
async fn top_shows_pools_and_drains_endpoints() {
    let tmux = Tmux::start(80, 24).await;
    let (sidecar, url) = start(&tmux, &format!("{POOLS}{ADMIN}")).await;
    let mut leases = BTreeMap::new();
    let mut alive = hold(&sidecar, &mut leases, 1..=5).await;
    let pid_file = tmux.path().join("pid").display().to_string();
    tmux.types(&format!("export EVENKEEL_TOKEN={TOKEN}"));
    tmux.types(&top(&url, &pid_file));

    // The screen shows the same numbers as the API.
    let screen = tmux.shows("the leases are shown", |screen| number(screen, "llm", 2) == Some(5)).await;
    let state = sidecar.pool("llm").await;
    let of = |column| number(&screen, "llm", column);
    assert_eq!((of(2), of(3)), (Some(state.in_flight), state.capacity), "{screen}");
    assert!(tmux.is_taken() && screen.contains("in flight 5 of 22"), "{screen}");
    tmux.shows("sidecars and rates", |screen| screen.contains("sidecars 1/1") && screen.contains("admits "))
        .await;
    assert!(screen.lines().all(|line| line.chars().count() <= 80) && screen.contains("store up"), "{screen}");

    // A change is shown within 2 s. On a busy machine it may take longer, but not every time.
    let mut slowest = Vec::new();
    for lease in 6..=15 {
        drop(alive);
        let began = Instant::now();
        alive = hold(&sidecar, &mut leases, lease..=lease).await;
        tmux.shows("the change is shown", |screen| number(screen, "llm", 2) == Some(lease)).await;
        slowest.push(began.elapsed());
        if slowest.last().is_some_and(|took| *took < Duration::from_secs(2)) {
            break;
        }
    }
    assert!(slowest.last().is_some_and(|took| *took < Duration::from_secs(2)), "{slowest:?}");

    // These keys open the other pool, go back, open the first pool's endpoints, and sort them by name.
    tmux.keys(&["j", "Enter"]);
    tmux.shows("the other pool's endpoints", |screen| row(screen, "d:1").is_some()).await;
    tmux.keys(&["Escape"]);
    tmux.shows("the pools again", |screen| row(screen, "llm").is_some()).await;
    tmux.keys(&["Up", "Enter", "s", "s"]);
    let screen = tmux.shows("endpoints by name", |screen| screen.contains("by name")).await;
    let state = sidecar.pool("llm").await;
    for endpoint in &state.endpoints {
        let shown = (number(&screen, &endpoint.address, 1), number(&screen, &endpoint.address, 2));
        assert_eq!(shown, (Some(endpoint.in_flight), Some(endpoint.cap.into())), "{screen}");
    }
    let order: Vec<usize> =
        ["a:1", "b:1", "c:1"].map(|name| screen.find(&format!(" {name} ")).unwrap()).to_vec();
    assert!(order.is_sorted(), "{screen}");
    // top asks before it drains an endpoint. The same key undrains the endpoint.
    tmux.keys(&["j", "d"]);
    tmux.shows("the question", |screen| screen.contains("drain b:1?  y in every pool  o only in llm")).await;
    tmux.keys(&["o"]);
    let drained = |screen: &str| row(screen, "b:1").is_some_and(|words| words.contains(&"drained"));
    tmux.shows("it is drained", |screen| drained(screen) && screen.contains("endpoints 4, 1")).await;
    let drains: serde_json::Value = serde_json::from_str(&sidecar.get("/api/v1/drains").await.1).unwrap();
    assert_eq!(
        (&drains["drains"][0]["endpoint"], &drains["drains"][0]["who"]),
        (&"b:1".into(), &"ops".into())
    );
    tmux.keys(&["d"]);
    tmux.shows("the other question", |screen| screen.contains("undrain b:1?")).await;
    tmux.keys(&["y"]);
    tmux.shows("it gets requests again", |screen| row(screen, "b:1").is_some() && !drained(screen)).await;

    tmux.keys(&["/", "c", "Enter"]);
    tmux.shows("only what matches", |screen| row(screen, "c:1").is_some() && row(screen, "a:1").is_none())
        .await;
    tmux.keys(&["Escape"]);
    tmux.shows("all endpoints again", |screen| row(screen, "a:1").is_some()).await;
    tmux.keys(&["Escape"]);

    // The screen becomes narrow and low, and then wide again.
    for (columns, rows) in [("30", "6"), ("10", "3"), ("120", "40")] {
        tmux.command(&["resize-window", "-x", columns, "-y", rows]);
        tmux.shows("it fits", |screen| screen.contains("store up")).await;
    }
    tmux.shows("all columns", |screen| screen.contains("HOLDERS") && screen.contains("IMBALANCE")).await;

    // top reconnects to a restarted sidecar, whose embedded store is empty.
    drop(alive);
    sidecar.shutdown.cancel();
    sidecar.task.await.unwrap().unwrap();
    let screen =
        tmux.shows("the missing answer is reported", |screen| screen.contains("no answer from unix:")).await;
    assert!(
        screen.contains("trying again") && row(&screen, "llm").is_some(),
        "the last figures stay: {screen}"
    );
    let (sidecar, _) = start(&tmux, POOLS).await;
    let mut leases = BTreeMap::new();
    let _alive = hold(&sidecar, &mut leases, 1..=3).await;
    let back = |screen: &str| number(screen, "llm", 2) == Some(3) && !screen.contains("no answer");
    tmux.shows("it is back", back).await;

    tmux.keys(&["q"]);
    is_restored(&tmux).await;
}

#[tokio::test]
async fn a_signal_restores_the_terminal() {
    let tmux = Tmux::start(80, 24).await;
    let (_sidecar, url) = start(&tmux, POOLS).await;
    let pid_file = tmux.path().join("pid").display().to_string();
    tmux.types(&top(&url, &pid_file));
    tmux.shows("the pools", |screen| row(screen, "small").is_some()).await;
    tmux.keys(&["Enter"]);
    tmux.shows("endpoints", |screen| screen.contains("ENDPOINT ")).await;
    tmux.keys(&["d", "y"]);
    tmux.shows("the refusal is reported", |screen| screen.contains("changes are not possible")).await;
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let killed = std::process::Command::new("kill").args(["-TERM", pid.trim()]).status().unwrap();
    assert!(killed.success());
    is_restored(&tmux).await;
}

#[tokio::test]
async fn tables_fit_the_terminal() {
    let name = "an-endpoint-with-a-name-that-is-far-too-long-for-this:8080";
    let tmux = Tmux::start(64, 12).await;
    let (sidecar, url) =
        start(&tmux, &format!("\npools: [{{cluster: llm, endpoints: [{{address: '{name}'}}]}}]\n")).await;
    tmux.types(&format!("clear; {PROGRAM} pools --server {url}; echo ended"));
    let screen = tmux.shows("the table", |screen| screen.contains("\nended")).await;
    let lines: Vec<&str> = screen.lines().take_while(|line| *line != "ended").collect();
    assert!(lines.len() == 2 && lines[1].contains("…") && lines[1].starts_with("llm"), "{screen}");
    let whole = prints(&sidecar, "pools").await;
    assert!(whole.contains(name), "{whole}");
}

#[tokio::test]
async fn top_prints_one_frame_without_a_terminal() {
    let sidecar = Sidecar::start(&POOLS.replace("4s", "60s")).await;
    for lease in 1..=3 {
        sidecar.lease("llm", "h", lease).await;
    }
    let url = sidecar.url();
    // Standard output is a pipe here. top prints one frame with and without --once.
    for words in [&["top"][..], &["top", "--once"]] {
        let output = evenkeel(&url, None, words).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && !text.contains('\u{1b}'), "{text:?}");
        assert_eq!(number(&text, "llm", 2), Some(3), "{text}");
        assert!(text.starts_with(" evenkeel top  http://") && !text.contains("quit"), "{text}");
    }
    let output = evenkeel(&url, None, &["top", "--once", "--cluster", "llm"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(["a:1", "b:1", "c:1"].iter().all(|name| number(&text, name, 1) == Some(1)), "{text}");
    let output = evenkeel(&url, None, &["top", "--once", "--output", "json"]).await;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["pools"][0]["in_flight"], 3);
    let gone = evenkeel("http://127.0.0.1:1", None, &["top", "--once"]).await;
    assert_eq!(gone.status.code(), Some(5));
}

#[tokio::test]
async fn top_prints_each_change_as_a_line_of_json() {
    let sidecar = Sidecar::start(&POOLS.replace("4s", "12s")).await;
    let mut command = tokio::process::Command::new(PROGRAM);
    command.args(["top", "--output", "json", "--cluster", "llm", "--server", &sidecar.url()]);
    let mut child = command.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
    let mut next = async |expected: u64| {
        let read = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("it goes on");
                let json: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(json["cluster"], "llm");
                if json["in_flight"] == expected {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("the change is printed");
    };
    next(0).await;
    sidecar.lease("llm", "h", 1).await;
    next(1).await;
    sidecar.settle("llm", "h", 1).await;
    next(0).await;
    drop(lines);
    sidecar.lease("llm", "h", 2).await;
    let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await;
    assert!(ended.expect("it ends when nobody reads").unwrap().success());
}
