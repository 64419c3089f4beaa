-- migrate:up transaction:false
begin;
set local timezone='UTC';
create table a (i int, t timestamptz default '2020-01-01 12:00');
commit;

-- migrate:down transaction:false
begin;
drop table a;
commit;
