"""The audit of a data set's content, through a frozen backbone; `npt_core.data.audit` looks at its structure."""

from __future__ import annotations

from npt_core.audit.content import ContentAudit, audit_content

__all__ = ["ContentAudit", "audit_content"]
