"""The paths of DESIGN: clients append `/v1`, do not, or do it twice."""

TOOLS = ("claudecode", "cline", "cursor", "roocode", "codex")

PROBES = ("/healthz", "/readyz")
"""What load balancers ask: answered to the last."""

TOOL_ROOTS = {f"/{tool}{version}": tool for tool in TOOLS for version in ("/v1", "", "/v1/v1")}
"""Where a tool's paths may begin, and which tool that is."""

ROOTS: dict[str, str | None] = {"/v1": None, **TOOL_ROOTS}
