-- Found by the fuzzer: an END refused, which ends a body that begins with a semicolon.
CREATE FUNCTION f()RETURNS int BEGIN ATOMIC;SELECT 1 end;END;--
DECLARE c CURSOR FOR SELECT ''--
'';DO $x$BEGIN PERFORM;END$x$