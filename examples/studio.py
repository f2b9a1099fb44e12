"""A pipeline for LangGraph's own studio, which `langgraph.json` names; see docs/studio.md."""

import inferloom

graph = inferloom.load("self_consistency").graph
