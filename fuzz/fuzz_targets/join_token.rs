//! Join tokens: 47 characters that read back, or nothing; no part of a secret shows in an error.
#![no_main]

use ca::token::JoinToken;

fuzz::target!(|text: &str| {
    match JoinToken::parse(text) {
        Ok(token) => {
            let revealed = token.reveal();
            assert_eq!(revealed.as_str(), text.trim());
            assert_eq!(revealed.len(), 47);
            assert!(JoinToken::parse(&revealed).is_ok());
            assert!(JoinToken::parse(&revealed[..46]).is_err());
            assert!(JoinToken::parse(&format!("{}A", *revealed)).is_err());
            assert!(!format!("{token:?}").contains(&revealed[4..]));
        }
        Err(error) => assert_eq!(
            error.to_string(),
            "expected a join token: \"tsj_\" and 43 characters of unpadded base64url"
        ),
    }
});
