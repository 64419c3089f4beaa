SELECT '\''; COMMIT; SELECT ' AS a -- ';
