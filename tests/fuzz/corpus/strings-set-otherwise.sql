-- The server reads a whole message before the first statement of it runs: this setting comes too late.
SET standard_conforming_strings = off; SELECT '\'; COMMIT; --';