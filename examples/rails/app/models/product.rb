# Something for sale.
class Product < ActiveRecord::Base
end
