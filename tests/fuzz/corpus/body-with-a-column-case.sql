-- The END that ends the body is the one where a statement could begin.
CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS "end"; SELECT 1 case; END; COMMIT; SELECT 1/0;