-- A string goes on behind a comment and a line break, and is still one with escapes.
SELECT E'a' -- c'
'\';COMMIT;--'; SELECT 1;