//! URLs as they may be shown: logs and errors are read by more people than passwords are for.

/// A URL without who logs in, and without its parameters, which may hold a password too. Where it is not clear what belongs to whom,
/// since an `@` stands behind the host, only the scheme is shown.
#[must_use]
pub fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "a URL without a scheme".to_owned() };
    let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme {
        return "a URL without a scheme".to_owned();
    }
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if behind.contains('@') {
        return format!("{scheme}://…");
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = behind.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_password_is_left() {
        for (url, shown) in [
            ("http://127.0.0.1:7700", "http://127.0.0.1:7700"),
            ("https://me:s3cret@h:1/base?key=s3cret#s3cret", "https://h:1/base"),
            ("http://me:s3@cret@h/x", "http://h/x"),
            ("http://me:s3cret@[bad", "http://[bad"),
            ("http://me:s3/cret@h/x", "http://…"),
            ("http://me:s3?cret@h/x", "http://…"),
            ("http://me:s3@c#ret@h/x", "http://…"),
            ("http://h/x?key=s3@cret", "http://…"),
            ("me:s3cret@h", "a URL without a scheme"),
            ("me:s3cret@h://", "a URL without a scheme"),
        ] {
            assert_eq!(without_credentials(url), shown, "{url}");
        }
    }
}
