"""Test tools that CharForge ships: a scripted stand-in for models, and a mock endpoint. No command of CharForge uses them."""

from __future__ import annotations

from charforge.testing.scripted import MODEL, ScriptedWorkshop

__all__ = ["MODEL", "ScriptedWorkshop"]
