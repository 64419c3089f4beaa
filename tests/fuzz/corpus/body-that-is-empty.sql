-- A body without a statement, and one that begins with a semicolon.
CREATE FUNCTION f() RETURNS void BEGIN ATOMIC END; CREATE FUNCTION g() RETURNS int BEGIN ATOMIC;; SELECT 1 end; END; SELECT 1;