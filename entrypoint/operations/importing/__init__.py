"""`import`: another tool's directory becomes files of ours. A pure module for each tool, or for two that are alike."""
