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
    let from: usize = if token.is_empty() { Ok(0) } else { token.parse() }.map_err(|_| {
        DomainError::invalid("page_token", "one from the previous page", &format!("{token:?}"))
    })?;
    let next = from.saturating_add(size);
    let next_token = if next < list.len() { next.to_string() } else { String::new() };
    list.truncate(next);
    list.drain(..from.min(list.len()));
    Ok((list, next_token))
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
}
