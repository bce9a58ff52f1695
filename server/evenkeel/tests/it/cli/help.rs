//! Help, manual pages and completion.

use crate::support::command::evenkeel;

/// Returns the names of the pages that `evenkeel man --dir` has written: one for each command.
fn pages(dir: &std::path::Path) -> Vec<String> {
    let mut pages: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    pages
}

#[tokio::test]
async fn help_manual_and_completion_cover_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let wrote = evenkeel("", None, &["man", "--dir", dir.path().to_str().unwrap()]).await;
    assert!(wrote.status.success(), "{}", String::from_utf8_lossy(&wrote.stderr));
    let pages = pages(dir.path());
    for page in ["evenkeel.1", "evenkeel-top.1", "evenkeel-quota-set.1", "evenkeel-usage-sessions.1"] {
        assert!(pages.iter().any(|there| there == page), "{page}: {pages:?}");
    }
    // --dir writes the same page that `man` prints.
    let one = evenkeel("", None, &["man", "quota", "set"]).await.stdout;
    assert_eq!(one, std::fs::read(dir.path().join("evenkeel-quota-set.1")).unwrap());
    let whole = String::from_utf8(evenkeel("", None, &["man"]).await.stdout).unwrap();
    assert!(whole.contains(".TH") && whole.contains("Exit codes"), "{whole}");
    assert_eq!(evenkeel("", None, &["man", "sideways"]).await.status.code(), Some(2));

    let dashed = ["check-config", "config-schema", "convert-higress", "convert-limitador"];
    for page in pages.iter().filter(|page| *page != "evenkeel.1" && !page.contains("-help")) {
        let name = page.trim_start_matches("evenkeel-").trim_end_matches(".1");
        let words: Vec<&str> = match name {
            "quota-burn-rates" => vec!["quota", "burn-rates"],
            name if dashed.contains(&name) => vec![name],
            name => name.split('-').collect(),
        };
        let output = evenkeel("", None, &[&words[..], &["--help"]].concat()).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Usage: evenkeel"), "{words:?}: {text}");
        let first = text.lines().next().unwrap();
        assert!(first.len() > 10 && !first.starts_with("Usage"), "{words:?}: {first}");
    }
    let help = String::from_utf8(evenkeel("", None, &["--help"]).await.stdout).unwrap();
    assert!(help.contains("Exit codes:") && help.contains("  5  no answer"), "{help}");

    for (shell, expected) in [
        ("bash", "complete -F _evenkeel"),
        ("zsh", "#compdef evenkeel"),
        ("fish", "complete -c evenkeel"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = String::from_utf8(evenkeel("", None, &["completion", shell]).await.stdout).unwrap();
        assert!(script.contains(expected) && script.contains("check-config"), "{shell}");
    }
    // Bash accepts the script and completes with it.
    let script = String::from_utf8(evenkeel("", None, &["completion", "bash"]).await.stdout).unwrap();
    let asked = format!(
        "{script}\nCOMP_WORDS=(evenkeel undr) COMP_CWORD=1; _evenkeel evenkeel undr evenkeel; echo \"${{COMPREPLY[@]}}\""
    );
    let bash = tokio::process::Command::new("bash").args(["-c", &asked]).output().await.unwrap();
    let completed = String::from_utf8(bash.stdout).unwrap();
    assert_eq!(completed.trim(), "undrain", "{}", String::from_utf8_lossy(&bash.stderr));
}
