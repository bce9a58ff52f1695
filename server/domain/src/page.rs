//! Divides lists into pages.

use super::DomainError;

const DEFAULT: usize = 100;
const MOST: usize = 1000;

/// Returns the page size for a request, in which 0 means 100.
///
/// # Errors
/// If more than 1000 are requested.
pub fn page_size_of(size: u32) -> Result<usize, DomainError> {
    match size as usize {
        0 => Ok(DEFAULT),
        size if size <= MOST => Ok(size),
        size => Err(DomainError::invalid("page_size", "at most 1000", &size.to_string())),
    }
}

/// Returns one page of a list and the token of the next page. The token is an index, because these lists change their
/// order continually.
///
/// # Errors
/// If the token is invalid.
pub fn page_at<T>(mut list: Vec<T>, size: usize, token: &str) -> Result<(Vec<T>, String), DomainError> {
    let from = position(token)?;
    let next = from.saturating_add(size);
    let next_token = if next < list.len() { next.to_string() } else { String::new() };
    list.truncate(next);
    list.drain(..from.min(list.len()));
    Ok((list, next_token))
}

/// Returns the index in a token of [`page_at`].
///
/// # Errors
/// If the token is invalid.
pub fn position(token: &str) -> Result<usize, DomainError> {
    if token.is_empty() { Ok(0) } else { token.parse().map_err(|_| wrong_token(token)) }
}

/// Returns one page of a list, newest first, and the token of the next page. The token is the time and id of the last
/// entry, so that new entries do not shift later pages.
///
/// # Errors
/// If the token is invalid.
pub fn page_before<T>(
    mut list: Vec<T>,
    size: usize,
    token: &str,
    key: impl Fn(&T) -> (u64, u64),
) -> Result<(Vec<T>, String), DomainError> {
    if !token.is_empty() {
        let parts = token.split_once(':');
        let last = parts.and_then(|(at_ms, id)| Some((at_ms.parse().ok()?, id.parse().ok()?)));
        let last = last.ok_or_else(|| wrong_token(token))?;
        list.retain(|entry| key(entry) < last);
    }
    let next = cut(&mut list, size, |last| {
        let (at_ms, id) = key(last);
        format!("{at_ms}:{id}")
    });
    Ok((list, next))
}

/// Returns the error for a token that no page has returned.
#[must_use]
pub fn wrong_token(token: &str) -> DomainError {
    DomainError::invalid("page_token", "one from the previous page", &format!("{token:?}"))
}

/// Truncates a list to one page and returns the token of the next page. The token is the last key of this page, so that
/// insertions and deletions do not shift later pages.
pub fn cut<T>(list: &mut Vec<T>, size: usize, token: impl FnOnce(&T) -> String) -> String {
    if list.len() <= size {
        return String::new();
    }
    list.truncate(size);
    list.last().map(token).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_by_position_follow_each_other() {
        let list = || (0..5).collect::<Vec<_>>();
        assert_eq!(page_at(list(), 2, "").ok(), Some((vec![0, 1], "2".to_owned())));
        assert_eq!(page_at(list(), 2, "4").ok(), Some((vec![4], String::new())));
        assert_eq!(page_at(list(), 5, "").ok(), Some((list(), String::new())));
        assert_eq!(page_at(list(), 2, "9").ok(), Some((vec![], String::new())));
        assert_eq!(page_at(list(), 2, &usize::MAX.to_string()).ok(), Some((vec![], String::new())));
        assert!(page_at(list(), 2, "x").is_err());
    }

    /// Guards against entries that a client sees twice or never because new entries arrive between two pages.
    #[test]
    fn new_entries_do_not_shift_older_pages() {
        let mut list = vec![(9, 2), (9, 1), (7, 8), (5, 3)];
        let page =
            |list: &[(u64, u64)], token: &str| page_before(list.to_vec(), 2, token, |entry| *entry).ok();
        assert_eq!(page(&list, ""), Some((vec![(9, 2), (9, 1)], "9:1".to_owned())));
        list.insert(0, (10, 1));
        assert_eq!(page(&list, "9:1"), Some((vec![(7, 8), (5, 3)], String::new())));
        assert_eq!((page(&list, "9"), page(&list, "9:x")), (None, None));
    }
}
