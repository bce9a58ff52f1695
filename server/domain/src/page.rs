//! Lists in pages.

use super::DomainError;

const DEFAULT: usize = 100;
const MOST: usize = 1000;

/// How many to list where so many are asked for; 0 asks for 100.
///
/// # Errors
/// Where more than 1000 are.
pub fn page_size_of(size: u32) -> Result<usize, DomainError> {
    match size as usize {
        0 => Ok(DEFAULT),
        size if size <= MOST => Ok(size),
        size => Err(DomainError::invalid("page_size", "at most 1000", &size.to_string())),
    }
}

/// One page of a list whose order changes all the time: the token tells a place in it.
///
/// # Errors
/// Where the token is none of ours.
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

/// Cuts a list to one page; the token of the next tells the last key of this one, so that what comes and goes
/// meanwhile shifts nothing.
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
    fn pages_by_place_follow_each_other() {
        let list = || (0..5).collect::<Vec<_>>();
        assert_eq!(page_at(list(), 2, "").ok(), Some((vec![0, 1], "2".to_owned())));
        assert_eq!(page_at(list(), 2, "4").ok(), Some((vec![4], String::new())));
        assert_eq!(page_at(list(), 5, "").ok(), Some((list(), String::new())));
        assert_eq!(page_at(list(), 2, "9").ok(), Some((vec![], String::new())));
        assert_eq!(page_at(list(), 2, &usize::MAX.to_string()).ok(), Some((vec![], String::new())));
        assert!(page_at(list(), 2, "x").is_err());
    }
}
