"""`import`: how each tool's directory is read. One pure module for each tool, or for two that are alike."""
