//! One stream of SDS, in either of its two ways to speak: the client says what it wants and what it has, and is told whatever
//! is news to it, now or when it changes.

use crate::call::Entitlement;
use crate::holdings::View;
use futures_util::stream::{self, Stream};
use tonic::{Status, Streaming};

/// What a client wants and has, by what it has said and was told.
pub(super) trait Wants: Clone + Default {
    type Request;
    type Response;

    /// Takes in what it says.
    ///
    /// # Errors
    /// When it asks for what there is not; the stream ends with that.
    fn take(&mut self, request: Self::Request) -> Result<(), Status>;

    /// What it has not been told, if there is something; it counts as told.
    fn news(&mut self, view: &View) -> Option<Self::Response>;
}

/// Answers the requests of one stream, and sends whatever changes.
pub(super) fn answers<W: Wants>(
    entitlement: Entitlement,
    requests: Streaming<W::Request>,
) -> impl Stream<Item = Result<W::Response, Status>> {
    let start = Conversation {
        entitlement,
        requests,
        wants: W::default(),
    };
    stream::unfold(Some(start), |conversation| async {
        let mut conversation = conversation?;
        match conversation.next().await {
            Ok(None) => None,
            Ok(Some(response)) => Some((Ok(response), Some(conversation))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

struct Conversation<W: Wants> {
    entitlement: Entitlement,
    requests: Streaming<W::Request>,
    wants: W,
}

impl<W: Wants> Conversation<W> {
    /// The next response; `None` when the stream ends.
    async fn next(&mut self) -> Result<Option<W::Response>, Status> {
        loop {
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => self.wants.take(request)?,
                    None => return Ok(None),
                },
                changed = self.entitlement.changed() => if !changed {
                    return Ok(None);
                },
            }
            // A copy is asked: nothing is told yet.
            let is_news = |view: &View| self.wants.clone().news(view).is_some();
            let Some(view) = self.entitlement.view_again(is_news).await? else {
                continue;
            };
            if let Some(response) = self.wants.news(&view) {
                return Ok(Some(response));
            }
        }
    }
}
