//! Prompts as text: requests of a trace become OpenAI chat requests whose shared blocks are shared text.
//!
//! A trace has numbers instead of text. Each block of [`BLOCK_TOKENS`] tokens becomes text of [`TOKEN_BYTES`] bytes per
//! token that depends only on the block's id, so prompts that share their first blocks begin with the same text. All
//! other text is distinct.

use bytes::Bytes;

use super::Request;
use crate::engine::BLOCK_TOKENS;

/// Bytes of text per token: the usual size in English text, and what Evenkeel assumes of an unknown model.
pub const TOKEN_BYTES: usize = 4;
const BLOCK_BYTES: usize = BLOCK_TOKENS as usize * TOKEN_BYTES;
const BEFORE_MODEL: &str = r#"{"model":""#;
/// Clients ask for usage, so that balancers can learn how much of a prompt was cached.
const BEFORE: &str =
    r#"","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":""#;
const AFTER: &str = r#""}]}"#;
/// Letters of the text. JSON escapes none of them.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyzABCDEF";
/// Distinguishes text that no other request has from the text of a block with the same number.
const DISTINCT: u64 = 0x5bd1_e995_9d1b_54a3;

/// Returns the body of a chat request with the request's prompt. `index` is the number of the request in its workload;
/// text outside the request's blocks depends on it.
pub fn chat_request(request: &Request, index: usize) -> Bytes {
    let bytes = request.prompt as usize * TOKEN_BYTES;
    let before = [BEFORE_MODEL, &model_name(request.model), BEFORE].concat();
    let end = before.len() + bytes;
    let mut body = Vec::with_capacity(end + AFTER.len());
    body.extend_from_slice(before.as_bytes());
    let distinct = mix(DISTINCT ^ index as u64);
    for number in 0.. {
        if body.len() >= end {
            break;
        }
        let id = request.blocks.get(number).copied();
        push_block(&mut body, id.unwrap_or_else(|| mix(distinct ^ number as u64)));
    }
    body.truncate(end);
    body.extend_from_slice(AFTER.as_bytes());
    Bytes::from(body)
}

/// Returns the prompt's text in a body of [`chat_request`].
pub fn text(body: &[u8]) -> &[u8] {
    let before = body.windows(BEFORE.len()).position(|window| window == BEFORE.as_bytes());
    let start = before.map_or(body.len(), |before| before + BEFORE.len());
    body.get(start..body.len().saturating_sub(AFTER.len())).unwrap_or_default()
}

/// Returns the name of a model in requests.
pub fn model_name(model: u32) -> String {
    if model == 0 { "mock".to_owned() } else { format!("mock-{model}") }
}

/// Returns the name of a consumer in requests; `None` for requests that name none.
pub fn consumer_name(consumer: u32) -> Option<String> {
    (consumer > 0).then(|| format!("consumer-{consumer}"))
}

/// Returns a hash of each complete block of a text. The hash also covers the name of the model and all earlier blocks.
pub fn block_hashes(model: &str, text: &[u8]) -> Vec<u64> {
    let (blocks, _) = text.as_chunks::<BLOCK_BYTES>();
    let mut hash = model.bytes().fold(DISTINCT, |hash, byte| mix(hash ^ u64::from(byte)));
    let chained = blocks.iter().map(|block| {
        let (words, _) = block.as_chunks::<8>();
        for word in words {
            hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        hash = mix(hash);
        hash
    });
    chained.collect()
}

/// Appends words of one space and three letters.
fn push_block(text: &mut Vec<u8>, id: u64) {
    let mut state = id;
    for _ in 0..BLOCK_TOKENS / 4 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = mix(state);
        for _ in 0..4 {
            let mut word = *b"    ";
            for letter in &mut word[1..] {
                *letter = LETTERS[(bits & 31) as usize];
                bits >>= 5;
            }
            text.extend_from_slice(&word);
        }
    }
}

/// Mixes the bits of a number: the output function of SplitMix64.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(prompt: u32, blocks: &[u64]) -> Request {
        Request { prompt, blocks: blocks.into(), ..Request::default() }
    }

    #[test]
    fn the_body_is_a_chat_request_of_four_bytes_per_token() {
        for prompt in [0, 1, 511, 512, 513, 5000] {
            let body = chat_request(&request(prompt, &[7, 8]), 3);
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let content = json["messages"][0]["content"].as_str().unwrap();
            assert_eq!(content.len(), prompt as usize * 4);
            assert_eq!(content.as_bytes(), text(&body));
            assert_eq!(
                (&json["stream"], &json["stream_options"]["include_usage"]),
                (&true.into(), &true.into())
            );
        }
    }

    #[test]
    fn only_shared_blocks_are_shared_text() {
        let common = |a: (&Request, usize), b: (&Request, usize)| {
            let (a, b) = (chat_request(a.0, a.1), chat_request(b.0, b.1));
            text(&a).iter().zip(text(&b)).take_while(|(a, b)| a == b).count() / BLOCK_BYTES
        };
        let (long, short) = (request(2000, &[0, 1, 2, 3]), request(1500, &[0, 1, 9]));
        assert_eq!(common((&long, 0), (&short, 1)), 2);
        assert_eq!(common((&long, 0), (&long, 1)), 3);
        let unknown = request(2000, &[]);
        assert_eq!(common((&unknown, 0), (&unknown, 1)), 0);
        assert_eq!(common((&unknown, 5), (&unknown, 5)), 3);
        // A number of a request is not the id of a block.
        assert_eq!(common((&unknown, 0), (&long, 0)), 0);
    }

    #[test]
    fn hashes_are_equal_where_the_text_so_far_is_equal() {
        let hashes =
            |blocks: &[u64], prompt| block_hashes("mock", text(&chat_request(&request(prompt, blocks), 0)));
        let a = hashes(&[0, 1, 2, 3], 2048);
        assert_eq!(a.len(), 4);
        // A block that is not complete has no hash.
        assert_eq!(hashes(&[0, 1, 2, 3], 2047), a[..3]);
        let b = hashes(&[0, 9, 2, 3], 2048);
        assert_eq!(a[0], b[0]);
        assert!(a[1..].iter().all(|hash| !b.contains(hash)));
        let body = chat_request(&Request { model: 2, ..request(2048, &[0, 1, 2, 3]) }, 0);
        assert!(body.starts_with(br#"{"model":"mock-2","#) && text(&body).len() == 4 * BLOCK_BYTES);
        let other = block_hashes("mock-2", text(&body));
        assert!(other.len() == 4 && other.iter().all(|hash| !a.contains(hash)));
    }
}
