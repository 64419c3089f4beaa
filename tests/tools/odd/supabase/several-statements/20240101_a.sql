create table a (i int);
create function f() returns int language sql begin atomic; select 1; end;
