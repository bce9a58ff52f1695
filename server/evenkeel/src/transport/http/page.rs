//! Serves the capacity page: the files in `server/evenkeel/page`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use ring::digest;

use super::Http;

/// The content security policy: no resources from other origins, no inline code, no forms, no frames.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

const INDEX: &str = "index.html";

/// One file of the page.
struct Asset {
    path: &'static str,
    bytes: &'static [u8],
    /// The content, compressed with gzip; empty if the compression failed.
    gzip: Vec<u8>,
    etag: HeaderValue,
}

macro_rules! assets {
    ($($path:literal,)*) => {
        [$(($path, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/page/", $path)).as_slice()),)*]
    };
}

/// Every file of the page that browsers request. A test compares this list with the directory.
const FILES: [(&str, &[u8]); 29] = assets![
    "icon.svg",
    "index.html",
    "lib/actions.js",
    "lib/activity.js",
    "lib/admin.js",
    "lib/api.js",
    "lib/attention.js",
    "lib/chart.js",
    "lib/dialog.js",
    "lib/dom.js",
    "lib/format.js",
    "lib/live.js",
    "lib/router.js",
    "lib/table.js",
    "lib/token.js",
    "lib/ui.js",
    "main.js",
    "style.css",
    "vendor/uplot/uPlot.iife.min.js",
    "vendor/uplot/uPlot.min.css",
    "views/changes.js",
    "views/cluster.js",
    "views/limits.js",
    "views/overview.js",
    "views/pool.js",
    "views/quotas.js",
    "views/session.js",
    "views/usage.js",
    "views/why.js",
];

/// The files, compressed once, at the first request for the page.
static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| FILES.into_iter().map(Asset::new).collect());

pub(super) fn routes() -> Router<Arc<Http>> {
    Router::new().route("/", get(|headers: HeaderMap| async move { serve(INDEX, &headers) })).route(
        "/assets/{*path}",
        get(|Path(path): Path<String>, headers: HeaderMap| async move { serve(&path, &headers) }),
    )
}

impl Asset {
    fn new((path, bytes): (&'static str, &'static [u8])) -> Self {
        let hash = digest::digest(&digest::SHA256, bytes);
        let hex: String = hash.as_ref()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        // Hexadecimal digits always form a valid header value.
        let etag =
            HeaderValue::from_str(&format!("W/\"{hex}\"")).unwrap_or(HeaderValue::from_static("W/\"\""));
        Self { path, bytes, gzip: gzip(bytes), etag }
    }

    fn media(&self) -> &'static str {
        match self.path.rsplit_once('.').map(|(_, kind)| kind) {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "application/octet-stream",
        }
    }
}

/// Compresses the bytes. Returns an empty vector on failure; the file is then served uncompressed.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// Serves one file. Browsers cache the file but revalidate it, so a page never mixes files of two versions.
fn serve(path: &str, headers: &HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.path == path) else {
        return (StatusCode::NOT_FOUND, "no such file\n").into_response();
    };
    let value = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let etag = asset.etag.to_str().unwrap_or_default();
    let mut out = if value(header::IF_NONE_MATCH).split(',').any(|known| known.trim() == etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if value(header::ACCEPT_ENCODING).contains("gzip") && !asset.gzip.is_empty() {
        ([(header::CONTENT_ENCODING, "gzip")], asset.gzip.as_slice()).into_response()
    } else {
        asset.bytes.into_response()
    };
    let headers = [
        (header::CONTENT_TYPE, asset.media()),
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept-encoding"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        out.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    out.headers_mut().insert(header::ETAG, asset.etag.clone());
    out
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn files(dir: &Path, below: &str, out: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true if name == "tests" => {}
                true => files(&entry.path(), &format!("{name}/"), out),
                false => drop(out.insert(name)),
            }
        }
    }

    #[test]
    fn every_file_of_the_directory_is_served() {
        let mut there = BTreeSet::new();
        files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("page"), "", &mut there);
        there.retain(|name| !name.ends_with("LICENSE") && !name.ends_with(".md"));
        let served: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(served, there);
    }

    #[test]
    fn the_page_preloads_every_module() {
        // Without preloading, the browser discovers the modules one after another.
        let index = std::str::from_utf8(FILES.iter().find(|(path, _)| *path == INDEX).unwrap().1).unwrap();
        for (path, _) in
            FILES.iter().filter(|(path, _)| path.starts_with("lib/") || path.starts_with("views/"))
        {
            assert!(
                index.contains(&format!("<link rel=\"modulepreload\" href=\"assets/{path}\">")),
                "{path}"
            );
        }
        assert!(!index.contains("=\"/") && !index.contains("://"), "addresses are relative");
    }

    #[test]
    fn names_and_notes_never_become_markup() {
        for (path, bytes) in
            FILES.iter().filter(|(path, _)| path.ends_with(".js") && !path.starts_with("vendor/"))
        {
            let text = std::str::from_utf8(bytes).unwrap();
            for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!text.contains(way), "{path}: {way}");
            }
        }
    }

    #[test]
    fn files_are_cached_and_compressed() {
        let all: usize = ASSETS.iter().map(|asset| asset.gzip.len()).sum();
        assert!(all < 100_000, "{all} bytes in all");
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, br"));
        let first = serve("main.js", &headers);
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(first.headers()[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert!(!serve("main.js", &HeaderMap::new()).headers().contains_key(header::CONTENT_ENCODING));
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        let again = serve("main.js", &headers);
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(again.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        assert_eq!(serve("views/style.css", &headers).status(), StatusCode::NOT_FOUND);
        assert_eq!(serve("../Cargo.toml", &headers).status(), StatusCode::NOT_FOUND);
    }
}
