import pytest

from gatewayctl.exits import as_failure
from server import errors


@pytest.mark.parametrize(
    ("err", "status", "code"),
    [
        (errors.InvalidRequest("Why."), 2, "invalid_request"),
        (errors.ConfigError("Why."), 2, "config_error"),
        (errors.InvalidApiKey("Why."), 4, "invalid_api_key"),
        (errors.ScopeNotAllowed("Why."), 4, "scope_not_allowed"),
        (errors.ModelNotFound("Why."), 5, "model_not_found"),
        (errors.Conflict("Why."), 6, "conflict"),
        (errors.StoreUnavailable("Why."), 7, "unavailable"),
        (errors.UpstreamError("Why."), 7, "upstream_error"),
        (errors.GatewayError("Why."), 1, "internal"),
    ],
)
def test_every_failure_of_the_domain_has_its_exit_code(err, status, code):
    failure = as_failure(err)

    assert (failure.status, failure.code, str(failure)) == (status, code, "Why.")
