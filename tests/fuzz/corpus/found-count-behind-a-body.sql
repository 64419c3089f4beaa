-- Found by the fuzzer: two statements, where the server has four.
CREATE FUNCTION f()RETURNS int--
RETURN-CASE WHEN true THEN 1 END;/**/CREATE FUNCTION g(a int)RETURNS t BEGIN ATOMIC SELECT a"d";SELECT 1--
case;END;/**/CREATE VIEW v AS SELECT--