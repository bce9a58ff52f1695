//! Checks the role of every caller, over gRPC and HTTP, before anything of the call's body is read.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use evenkeel_api::{Access, ApiError, Caller, Code, Shown};
use evenkeel_domain::settings::Role;
use tonic::{Status, service::Routes};

use super::{connections::Peer, http::Failure, status::status};

mod table;

use table::GATEWAY;
pub(crate) use table::{Need, of_call, of_route};

/// Header that carries the bare token, for sidecars behind a proxy whose login uses `authorization`.
const TOKEN_HEADER: &str = "x-evenkeel-token";

/// Decides which callers may do what.
#[derive(Clone)]
pub(crate) struct RoleCheck {
    pub(crate) access: Arc<Access>,
    /// Whether `/metrics` needs no role.
    pub(crate) open_metrics: bool,
}

impl RoleCheck {
    /// Puts the check before all gRPC services.
    pub(crate) fn before_grpc(self, routes: Routes) -> Routes {
        routes.into_axum_router().layer(middleware::from_fn_with_state(self, grpc)).into()
    }

    /// Puts the check before all routes of the HTTP server.
    pub(crate) fn before_http<S: Clone + Send + Sync + 'static>(self, router: Router<S>) -> Router<S> {
        router.layer(middleware::from_fn_with_state(self, http))
    }

    /// Passes on a request whose caller has the role. Handlers of operators' calls can read the caller.
    async fn pass(&self, need: Need, mut request: Request, next: Next) -> Result<Response, ApiError> {
        let peer = Peer::of(request.extensions());
        let caller = self.check(need, peer, request.headers()).await?;
        if let Some(caller) = caller.filter(|_| need != GATEWAY) {
            request.extensions_mut().insert(caller);
        }
        Ok(next.run(request).await)
    }

    /// Returns the caller, or `None` if the call needs no role.
    async fn check(
        &self,
        need: Need,
        peer: Option<&Peer>,
        headers: &HeaderMap,
    ) -> Result<Option<Caller>, ApiError> {
        let role = match need {
            Need::Nothing => return Ok(None),
            Need::Metrics if self.open_metrics => return Ok(None),
            Need::Metrics => Role::Reader,
            Need::Role(role) => role,
        };
        let Some(peer) = peer else {
            let message = "the listener does not report its peer".to_owned();
            return Err(ApiError { code: Code::Internal, field: None, message });
        };
        let authorization = authorization(headers);
        let shown = Shown {
            address: peer.address(),
            listener: peer.roles(),
            certificate: peer.certificate(),
            authorization: authorization.as_deref(),
        };
        self.access.check(role, shown).await.map(Some)
    }
}

/// Returns the header `authorization`, or the token of `x-evenkeel-token` in the same form. The latter comes first.
fn authorization(headers: &HeaderMap) -> Option<std::borrow::Cow<'_, str>> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let token = text(TOKEN_HEADER).map(|token| format!("Bearer {token}").into());
    token.or_else(|| text(header::AUTHORIZATION.as_str()).map(Into::into))
}

async fn grpc(State(roles): State<RoleCheck>, request: Request, next: Next) -> Response {
    let Some(need) = of_call(request.uri().path()) else {
        // A call without a row in the table is refused, even if some service has it.
        return Status::unimplemented("").into_http::<Body>();
    };
    let passed = roles.pass(need, request, next).await;
    passed.unwrap_or_else(|error| status(error).into_http::<Body>())
}

async fn http(State(roles): State<RoleCheck>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    // A path without a route has no handler, so it answers only 404 or 405.
    let need = path.map_or(Need::Nothing, |path| of_route(method, path));
    roles.pass(need, request, next).await.unwrap_or_else(|error| Failure::from(error).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_its_own_goes_before_the_login_of_a_proxy() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            authorization(&headers).map(std::borrow::Cow::into_owned)
        };
        let login = ("authorization", "Basic dTpw");
        assert_eq!(of(&[login, (TOKEN_HEADER, "token")]).as_deref(), Some("Bearer token"));
        assert_eq!(of(&[login]).as_deref(), Some("Basic dTpw"));
        // A wrong `x-evenkeel-token` counts even together with a valid `authorization`.
        assert_eq!(of(&[("authorization", "Bearer token"), (TOKEN_HEADER, "")]).as_deref(), Some("Bearer "));
        assert_eq!(of(&[]), None);
    }
}
